// Many clients of one room over WebSockets, with the room's server in a process of its own. Prints what that server used and sent,
// and how soon clients see what others say, as one line of JSON. `cargo xtask bench peers` runs it:
//   node clients.js PLAYERS SECONDS RADIUS_M INTEREST_M

import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Client } from "@colyseus/sdk";
import { HZ, Walk } from "./walk.js";

const [playerCount, seconds, radiusM, interestM] = process.argv.slice(2).map(Number);
// So many decode what they get; the others only take it in, to leave the machine to the server.
const WATCHERS = 8;
const SETTLE_MS = 8_000;
const JOINING_AT_A_TIME = 10;
// When something was said is remembered for so many messages: 51 s.
const REMEMBERED = 1_024;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const server = fork(fileURLToPath(new URL("server.js", import.meta.url)), [String(interestM)], { silent: true });
server.stderr.pipe(process.stderr);
server.once("exit", (code) => fail(`the room's server ended (${code})`));
const [{ port }] = await once(server, "message");

async function account() {
  const answer = once(server, "message");
  server.send("account");
  return (await answer)[0];
}

function fail(reason) {
  console.error(`colyseus: ${reason}`);
  server.kill();
  process.exit(1);
}

/** When each player said what, by session and number. */
const said = new Map();
const latencies = [];
const watched = { bytes: 0, updates: 0 };
let isMeasuring = false;

async function join(number) {
  const room = await new Client(`http://127.0.0.1:${port}`).joinOrCreate("walk");
  const saidAt = new Float64Array(REMEMBERED);
  said.set(room.sessionId, saidAt);
  const lose = (code) => isMeasuring && fail(`a client was lost (${code})`);
  room.onLeave(lose);
  room.onDrop(lose);
  const player = { room, walk: new Walk(radiusM), saidAt, steps: Math.floor((number * HZ) / playerCount) };
  if (number < WATCHERS) {
    watch(room);
  } else {
    await new Promise((resolve) => room.onStateChange.once(resolve));
    room.serializer.patch = () => {};
  }
  return player;
}

function watch(room) {
  const known = new Map();
  const take = room.connection.events.onmessage;
  room.connection.events.onmessage = (event) => {
    if (isMeasuring) {
      watched.bytes += event.data.byteLength;
    }
    take(event);
  };
  room.onStateChange((state) => {
    const now = performance.now();
    state.players?.forEach((player, session) => {
      if (known.get(session) === player.sequence) {
        return;
      }
      known.set(session, player.sequence);
      if (isMeasuring) {
        watched.updates += 1;
        const saidAt = said.get(session)?.[player.sequence % REMEMBERED];
        if (saidAt > 0 && session !== room.sessionId) {
          latencies.push(now - saidAt);
        }
      }
    });
  });
}

const players = [];
while (players.length < playerCount) {
  const count = Math.min(JOINING_AT_A_TIME, playerCount - players.length);
  const first = players.length;
  players.push(...(await Promise.all(Array.from({ length: count }, (_, number) => join(first + number)))));
}

// Everybody says something HZ times a second, each at a time of its own.
const begin = performance.now();
const speak = setInterval(() => {
  const now = performance.now();
  players.forEach(({ room, walk, saidAt }, number) => {
    const due = Math.floor(((now - begin) * HZ) / 1_000 + number / playerCount);
    for (; players[number].steps < due; players[number].steps += 1) {
      const message = walk.step();
      saidAt[walk.sequence % REMEMBERED] = performance.now();
      room.send("at", message);
    }
  });
}, 2);

await sleep(SETTLE_MS);
const before = await account();
isMeasuring = true;
await sleep(1_000 * seconds);
isMeasuring = false;
const after = await account();
clearInterval(speak);

if (interestM === 0) {
  const known = players.slice(0, WATCHERS).map(({ room }) => room.state.players.size);
  if (known.some((count) => count !== playerCount)) {
    fail(`clients know ${known} of ${playerCount} players`);
  }
}
latencies.sort((a, b) => a - b);
const percentile = (share) => latencies[Math.min(latencies.length - 1, Math.floor(share * latencies.length))];
const passed = (after.at - before.at) / 1_000;
const clientTicks = playerCount * (after.patches - before.patches);
console.log(
  JSON.stringify({
    players: playerCount,
    seconds: passed,
    patches_per_s: (after.patches - before.patches) / passed,
    in_view: (after.pairs - before.pairs) / clientTicks - 1,
    server_cpu_s: (after.user - before.user + after.system - before.system) / 1e6,
    program_us_per_client_tick: (after.user - before.user) / clientTicks,
    kernel_us_per_client_tick: (after.system - before.system) / clientTicks,
    sent_bytes: after.bytes - before.bytes,
    down_bytes_per_s: (after.bytes - before.bytes) / passed / playerCount,
    bytes_per_update: watched.bytes / watched.updates,
    updates_per_s: watched.updates / passed / Math.min(WATCHERS, playerCount),
    latency_p50_ms: percentile(0.5),
    latency_p99_ms: percentile(0.99),
    server_rss_mb: after.rss / 1e6,
  }),
);
server.removeAllListeners("exit");
server.disconnect();
process.exit();
