// Asking the supervisor: with the token of this tab, if it wants one; and its streams, which come back after a break.

const KEY = "vsekai-supervisor-token";
const RETRY_MS = [250, 500, 1000, 2000, 4000];

export class Refused extends Error {
  constructor(status, text) {
    super(text || `the answer was ${status}`);
    this.status = status;
  }
}

function headers() {
  const token = sessionStorage.getItem(KEY);
  return token ? { authorization: `Bearer ${token}` } : {};
}

export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
}

async function answer(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(), cache: "no-store" });
  if (!response.ok) throw new Refused(response.status, (await response.text()).trim());
  return response;
}

export async function get(path) {
  return (await answer(path)).json();
}

export async function post(path) {
  return (await answer(path, { method: "POST" })).json();
}

// Follows a stream of server-sent events until stop() is called. EventSource could not send the token.
export function follow(path, handlers) {
  const control = new AbortController();
  let attempt = 0;
  const run = async () => {
    while (!control.signal.aborted) {
      try {
        const response = await answer(typeof path === "function" ? path() : path, { signal: control.signal });
        attempt = 0;
        handlers.up?.();
        await read(response, handlers);
      } catch (error) {
        if (control.signal.aborted) return;
        if (error.status === 401) {
          handlers.token?.();
          return;
        }
      }
      handlers.down?.();
      await new Promise((done) => setTimeout(done, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]));
      attempt += 1;
    }
  };
  run();
  return () => control.abort();
}

async function read(response, handlers) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    begun += value;
    for (let end = begun.indexOf("\n\n"); end >= 0; end = begun.indexOf("\n\n")) {
      const event = { name: "message", data: "" };
      for (const line of begun.slice(0, end).split("\n")) {
        if (line.startsWith("event: ")) event.name = line.slice(7);
        if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      begun = begun.slice(end + 2);
      if (event.data) handlers[event.name]?.(JSON.parse(event.data));
    }
  }
}
