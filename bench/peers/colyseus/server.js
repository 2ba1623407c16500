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

let patches = 0;
let pairs = 0;

class WalkRoom extends Room {
  state = new World();
  patchRate = 1_000 / HZ;
  maxClients = 10_000;

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
    client.userData = { player, seen: new Set() };
    this.state.players.set(client.sessionId, player);
    if (interestM > 0) {
      client.view = new StateView();
    }
  }

  onLeave(client) {
    this.state.players.delete(client.sessionId);
    for (const { userData } of this.clients) {
      userData?.seen.delete(client.userData.player);
    }
  }

  onBeforePatch() {
    patches += 1;
    if (interestM > 0) {
      this.#lookAround();
    } else {
      pairs += this.clients.length * this.clients.length;
    }
  }

  // Everybody sees what is near. Only what changes is told to the view.
  #lookAround() {
    const range = interestM * interestM;
    const everybody = this.clients.filter((client) => client.userData);
    for (const { view, userData } of everybody) {
      const { player: own, seen } = userData;
      const [x, z] = [own.x, own.z];
      for (const other of everybody) {
        const player = other.userData.player;
        const [dx, dz] = [player.x - x, player.z - z];
        const isNear = dx * dx + dz * dz <= range;
        if (isNear === seen.has(player)) {
          continue;
        }
        if (isNear) {
          seen.add(player);
          view.add(player);
        } else {
          seen.delete(player);
          view.remove(player);
        }
      }
      pairs += seen.size;
    }
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
