// The operators' page: how everything stands comes as one board, and what happens as events; both by one stream.

import { bytes, clock, duration, element, number } from "./format.js";
import { Logs } from "./logs.js";
import { follow, get, keepToken, post } from "./server.js";
import { Spark } from "./spark.js";

const POINTS = 90;
const HAPPENED_MAX = 120;
const LEVEL = {
  running: "good", starting: "fair", recovering: "fair", queued: "fair", waiting: "fair", draining: "fair", stopping: "fair", clearing: "fair",
  quarantined: "bad", stopped: "off", finished: "off", held: "off",
};
const STATE = { waiting: "restarting", recovering: "restarting", clearing: "ending", queued: "in line", held: "maintenance" };
const byId = (id) => document.getElementById(id);
const rows = new Map();
const logs = new Logs(byId("log"), byId("filter"), byId("latest"));
let chosen = null;
let newest = 0;

// ---- Children ----

class Row {
  constructor(name) {
    this.name = name;
    this.cells = {};
    const cell = (key, kind = "") => (this.cells[key] = element("span", kind));
    this.sparks = Object.fromEntries(["tick_hz", "players", "backlog_bytes", "rss_bytes"].map((key) => [key, new Spark(POINTS)]));
    const curve = (key) => element("span", "curve", this.sparks[key].svg, cell(key, "num"));
    this.buttons = ["restart", "drain", "stop", "start"].map((what) => {
      const button = element("button", what === "stop" ? "small danger" : "small", what[0].toUpperCase() + what.slice(1));
      button.type = "button";
      button.dataset.testid = `${what}-${name}`;
      button.addEventListener("click", (event) => {
        event.stopPropagation();
        order(name, what);
      });
      return button;
    });
    this.element = element(
      "div", "child",
      element("span", "who", cell("name", "name"), cell("group", "soft")),
      element("span", "how", element("span", "state", element("span", "dot"), cell("state")), cell("reason", "reason")),
      cell("uptime", "num"), cell("restarts", "num"),
      curve("tick_hz"), curve("players"), curve("backlog_bytes"), curve("rss_bytes"),
      element("span", "actions", ...this.buttons),
    );
    this.element.dataset.testid = `child-${name}`;
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "button");
    this.element.addEventListener("click", () => choose(name));
    this.element.addEventListener("keydown", (event) => {
      if (event.target === this.element && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        choose(name);
      }
    });
    get(`/api/children/${encodeURIComponent(name)}/history`).then((points) => {
      for (const [key, spark] of Object.entries(this.sparks)) spark.set(points.map((point) => point[key]));
    }, () => {});
  }

  show(child, sampled) {
    const level = LEVEL[child.state] ?? "off";
    this.element.dataset.level = level;
    this.element.dataset.state = child.state;
    this.element.setAttribute("aria-pressed", String(child.name === chosen));
    const put = (key, text) => {
      if (this.cells[key].textContent !== text) this.cells[key].textContent = text;
    };
    put("name", child.name);
    put("group", child.pid ? `${child.group} · ${child.pid}` : child.group);
    const again = child.restarts > 0 && ["clearing", "recovering", "waiting", "starting"].includes(child.state);
    put("state", again ? "restarting" : (STATE[child.state] ?? child.state));
    put("reason", child.reason ?? (child.status || (child.log_lost ? `${child.log_lost} lines lost` : "")));
    this.cells.reason.title = this.cells.reason.textContent;
    put("uptime", child.starts_in_ms !== null ? `in ${(child.starts_in_ms / 1000).toFixed(1)} s` : duration(child.uptime_ms));
    put("restarts", String(child.restarts));
    put("tick_hz", number(child.tick_hz, 1));
    put("players", number(child.players));
    put("backlog_bytes", child.pid ? bytes(child.backlog_bytes) : "–");
    put("rss_bytes", child.pid ? bytes(child.rss_bytes) : "–");
    if (sampled) {
      const lives = child.pid !== null;
      this.sparks.tick_hz.add(lives ? child.tick_hz : null);
      this.sparks.players.add(lives ? child.players : null);
      this.sparks.backlog_bytes.add(lives ? child.backlog_bytes : null);
      this.sparks.rss_bytes.add(lives ? child.rss_bytes : null);
    }
    const down = ["stopped", "finished", "held", "quarantined"].includes(child.state);
    const [restart, drain, stop, start] = this.buttons;
    restart.hidden = drain.hidden = stop.hidden = down;
    start.hidden = !down;
    drain.disabled = child.state !== "running";
  }
}

let sampledAt = 0;

function showBoard(board) {
  const own = board.supervisor;
  byId("host").textContent = own.host;
  document.title = `${own.host} · supervisor`;
  const count = (state) => board.children.filter((child) => child.state === state).length;
  const bad = count("quarantined");
  const others = board.children.length - count("running") - bad;
  byId("summary").textContent =
    (own.finishing ? "stopping · " : "") + `${count("running")} of ${board.children.length} running` +
    (others ? ` · ${others} not` : "") + (bad ? ` · ${bad} quarantined` : "");
  facts(byId("own"), [
    ["process", String(own.pid)], ["up", duration(own.uptime_ms)], ["memory", bytes(own.rss_bytes)], ["files", String(own.open_files)], ["version", own.version],
  ]);
  showStore(board.store);
  // The curves have a point a second, boards may come more often.
  const sampled = board.at_unix_ms - sampledAt >= 950;
  if (sampled) sampledAt = board.at_unix_ms;
  const list = byId("children");
  for (const child of board.children) {
    if (!rows.has(child.name)) {
      rows.set(child.name, new Row(child.name));
      list.append(rows.get(child.name).element);
    }
    rows.get(child.name).show(child, sampled);
  }
  for (const [name, row] of rows) {
    if (!board.children.some((child) => child.name === name)) {
      row.element.remove();
      rows.delete(name);
    }
  }
  if (!board.children.length && !list.childElementCount) list.append(element("p", "nothing", "No children are configured."));
  if (!rows.has(chosen) && board.children.length) {
    const wanted = decodeURIComponent(location.hash.slice(1));
    choose(rows.has(wanted) ? wanted : board.children[0].name);
  }
  for (const happened of board.recent) showHappened(happened);
}

function showStore(store) {
  const list = byId("store");
  list.hidden = !store;
  if (!store) return;
  const ms = (us) => (us === null ? "–" : `${(us / 1000).toFixed(us < 10000 ? 1 : 0)} ms`);
  list.dataset.level = store.reachable ? "good" : "bad";
  facts(list, [
    ["store", store.reachable ? `answers in ${ms(store.answer_us)}` : "does not answer"],
    ["commit p99", ms(store.commit_p99_us)], ["in journals", bytes(store.backlog_bytes)],
  ]);
  list.title = store.last_error ? `${store.url} · last error ${clock(store.last_error_unix_ms, 0)}: ${store.last_error}` : store.url;
}

function facts(list, pairs) {
  if (list.childElementCount !== pairs.length) {
    list.replaceChildren(...pairs.map(() => element("div", "", element("dt"), element("dd"))));
  }
  pairs.forEach(([name, value], index) => {
    const [dt, dd] = list.children[index].children;
    dt.textContent = name;
    dd.textContent = value;
  });
}

function choose(name) {
  chosen = name;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  byId("chosen").textContent = name;
  for (const [other, row] of rows) row.element.setAttribute("aria-pressed", String(other === name));
  logs.show(name);
  if (!byId("crashes").hidden) showCrashes();
}

// ---- What happened ----

const GRAVE = { quarantined: "bad", lost: "bad", failed: "bad", killing: "fair", stopping: "fair", draining: "fair", ended: "fair", ready: "good", adopted: "good" };

function showHappened(happened) {
  // Boards repeat what was told already. A supervisor that was started anew counts from one again.
  if (happened.number <= newest) return;
  newest = happened.number;
  // For machines: people see the child's state.
  if (happened.kind === "gone") return;
  const when = clock(happened.at_unix_us / 1000, 0);
  const who = element("strong", "", happened.child ?? "supervisor");
  const item = element("li", "", element("time", "", when), who, element("span", "kind", happened.kind), element("span", "text", happened.text));
  item.dataset.level = GRAVE[happened.kind] ?? "off";
  item.title = happened.child ? `run ${happened.run}${happened.pid ? `, process ${happened.pid}` : ""}` : "";
  const list = byId("happened");
  list.prepend(item);
  while (list.childElementCount > HAPPENED_MAX) list.lastChild.remove();
  if (happened.kind === "failed" && happened.child === chosen && !byId("crashes").hidden) setTimeout(showCrashes, 500);
}

// ---- Crash reports ----

async function showCrashes() {
  const box = byId("crashes");
  let reports;
  try {
    reports = await get(`/api/children/${encodeURIComponent(chosen)}/crashes`);
  } catch (error) {
    box.replaceChildren(element("p", "nothing", error.message));
    return;
  }
  if (!reports.length) {
    box.replaceChildren(element("p", "nothing", "No crash is on record."));
    return;
  }
  box.replaceChildren(...reports.map((report, index) => {
    const head = element("summary", "", element("strong", "", report.cause), element("span", "soft", ` ${new Date(report.at_unix_ms).toLocaleString()} · run ${report.run} · after ${duration(report.uptime_ms)}${report.tick === null ? "" : ` · tick ${report.tick}`}`));
    const parts = [head];
    if (report.backtrace.length) parts.push(element("h3", "", "Backtrace"), element("pre", "", report.backtrace.join("\n")));
    parts.push(element("h3", "", "Last lines"), element("pre", "", report.lines.map((line) => `${clock(line.time)} ${line.text}`).join("\n")));
    const made = element("details", "", ...parts);
    made.open = index === 0;
    return made;
  }));
}

function tab(which) {
  byId("log").hidden = which !== "log";
  byId("crashes").hidden = which !== "crashes";
  byId("tab-log").setAttribute("aria-selected", String(which === "log"));
  byId("tab-crashes").setAttribute("aria-selected", String(which === "crashes"));
  byId("filter").parentElement.hidden = which !== "log";
  if (which === "crashes") showCrashes();
  else logs.toEnd();
}

byId("tab-log").addEventListener("click", () => tab("log"));
byId("tab-crashes").addEventListener("click", () => tab("crashes"));

// ---- Orders ----

const ASKED = {
  restart: ["Restart", "It is asked to end, killed if it does not in time, and started again. Its players lose their connection for a moment."],
  drain: ["Drain", "It takes no new players, finishes by itself and stays down."],
  stop: ["Stop", "It is asked to end, killed if it does not in time, and stays down."],
};

async function order(name, what) {
  if (ASKED[what]) {
    const [verb, text] = ASKED[what];
    byId("confirm-title").textContent = `${verb} ${name}?`;
    byId("confirm-text").textContent = text;
    byId("confirm-yes").textContent = verb;
    const dialog = byId("confirm");
    dialog.returnValue = "no";
    dialog.showModal();
    await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
    if (dialog.returnValue !== "yes") return;
  }
  try {
    await post(`/api/children/${encodeURIComponent(name)}/${what}`);
  } catch (error) {
    toast(error.message);
  }
}

function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (box.hidden = true), 6000);
}

// ---- The stream ----

function begin() {
  follow("/api/events", {
    up: () => {
      byId("link").dataset.level = "good";
      newest = 0;
      byId("happened").replaceChildren();
    },
    down: () => {
      byId("link").dataset.level = "bad";
      byId("summary").textContent = "the supervisor does not answer; its children may well run on";
    },
    token: signIn,
    board: showBoard,
    happened: showHappened,
  });
}

async function signIn() {
  const dialog = byId("sign-in");
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  begin();
}

begin();
