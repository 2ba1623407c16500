// A room in which everybody walks. Started by clients.js, which asks it what it used and sent.

import { createServer } from "node:http";
import { Room, Server } from "@colyseus/core";
import { StateView, schema, t } from "@colyseus/schema";
import { WebSocketTransport } from "@colyseus/ws-transport";
import { HZ } from "./walk.js";

// How far clients see, metres; 0: everything.
const interestM = Number(process.argv[2]);

const Player = schema({ x: t.float32(), y: t.float32(), z: t.float32(), sequence: t.uint16() }, "Player");
const players = () => t.map(Player);
const World = schema({ players: interestM > 0 ? players().view() : players() }, "World");

const PLAYERS_MAX = 10_000;

let joined = 0;
let patches = 0;
let pairs = 0;

class WalkRoom extends Room {
  state = new World();
  patchRate = 1_000 / HZ;
  maxClients = PLAYERS_MAX;

  messages = {
    at(client, [x, y, z, sequence]) {
      const player = client.userData.player;
      player.x = x;
      player.y = y;
      player.z = z;
      player.sequence = sequence;
    },
  };

  onJoin(client) {
    const player = new Player();
    // Whom this client sees, by number.
    client.userData = { client, player, number: joined, seen: new Uint8Array(PLAYERS_MAX) };
    joined += 1;
    this.state.players.set(client.sessionId, player);
    if (interestM > 0) {
      client.view = new StateView();
    }
  }

  onLeave(client) {
    this.state.players.delete(client.sessionId);
  }

  onBeforePatch() {
    patches += 1;
    if (interestM > 0) {
      this.#lookAround();
    } else {
      pairs += this.clients.length * this.clients.length;
    }
  }

  // Everybody sees what is near. Only what changes is told to the view: telling it everything in every patch would cost more.
  #lookAround() {
    const everybody = this.clients.filter((client) => client.userData).map((client) => client.userData);
    const [xs, zs] = [new Float64Array(everybody.length), new Float64Array(everybody.length)];
    everybody.forEach(({ player }, at) => {
      xs[at] = player.x;
      zs[at] = player.z;
    });
    const range = interestM * interestM;
    everybody.forEach(({ client, seen }, own) => {
      for (let at = 0; at < everybody.length; at += 1) {
        const [dx, dz] = [xs[at] - xs[own], zs[at] - zs[own]];
        const isNear = dx * dx + dz * dz <= range ? 1 : 0;
        const { number, player } = everybody[at];
        if (isNear !== seen[number]) {
          seen[number] = isNear;
          if (isNear) {
            client.view.add(player);
          } else {
            client.view.remove(player);
          }
        }
        pairs += isNear;
      }
    });
  }
}

const transport = new WebSocketTransport({ server: createServer() });
const server = new Server({ transport, greet: false });
server.define("walk", WalkRoom);
await server.listen(0, "127.0.0.1");

process.on("message", () => {
  let bytes = 0;
  for (const socket of transport.wss.clients) {
    bytes += socket._socket.bytesWritten;
  }
  const { user, system } = process.cpuUsage();
  process.send({ at: performance.now(), user, system, bytes, patches, pairs, rss: process.memoryUsage.rss() });
});
process.on("disconnect", () => process.exit());
process.send({ port: transport.server.address().port });
