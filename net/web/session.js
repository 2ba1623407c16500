// One stay on the server: hello and welcome, numbered commands with their pending results, movement, pings and the
// heartbeat. It decodes what arrives and hands it on; what the world looks like is the business of `view.js`.

import { MatchboxConnection } from './matchbox.js';
import {
  CHANNEL_COMMAND,
  CHANNEL_STATE,
  PROTOCOL_VERSION,
  decodeServerDatagram,
  decodeServerMessage,
  decodeView,
  encodeCommand,
  encodeGoodbye,
  encodeHello,
  encodeMove,
  encodePing,
} from './wire.js';

const PING_MS = 500;
const WELCOME_TIMEOUT_MS = 10_000;
/** Nothing at all from the server for this long means that it is gone (it answers pings). */
const SILENCE_MS = 7_000;
const MOVING_MS = 33;
const IDLE_MS = 200;

/**
 * Handlers: `stage(text)`, `welcome(message)`, `view(view)`, `snapshot(snapshot)`, `pong(pong)`,
 * `result({sequence, command, frame, outcome})`, `ended(reason, refusal | null)`.
 */
export class Session {
  /** Smoothed round trip in milliseconds, or null before the first pong. */
  rttMs = null;
  /** Commands without a result: sequence → command. */
  pending = new Map();
  /** Set by the owner: returns the tick of the newest whole snapshot. */
  acknowledged = () => 0;

  #connection;
  #handlers;
  #welcomed = false;
  #ended = false;
  #nextCommand = 1;
  #inputSequence = 0;
  #lastMove = { directionX: 0, directionZ: 0, yaw: 0, sprint: false };
  #lastMoveSentAt = 0;
  #heardAt = performance.now();
  #pings = new Map();
  #nonce = 0;
  #timers = [];
  #warnings = 0;

  constructor(url, { name, token }, handlers) {
    this.#handlers = handlers;
    this.#connection = new MatchboxConnection(url, {
      stage: handlers.stage,
      open: () => {
        handlers.stage('Entering the world');
        this.#heardAt = performance.now();
        this.#connection.send(CHANNEL_COMMAND, encodeHello({ token, name }));
        this.#timers.push(setTimeout(() => this.#noWelcome(), WELCOME_TIMEOUT_MS));
        this.#timers.push(setInterval(() => this.#heartbeat(), PING_MS));
      },
      message: (channel, bytes) => this.#receive(channel, bytes),
      closed: (reason) => this.#end(reason, null),
    });
  }

  /** True between the welcome and the end. */
  get connected() {
    return this.#welcomed && !this.#ended;
  }

  /** Sends a command and returns its sequence, or null when it could not be sent. */
  command(command) {
    if (!this.connected) return null;
    const sequence = this.#nextCommand;
    if (!this.#connection.send(CHANNEL_COMMAND, encodeCommand(sequence, command))) return null;
    this.#nextCommand += 1;
    this.pending.set(sequence, command);
    return sequence;
  }

  /** Called often with what the player wants; sends at once when it changed, else at the moving or the idle rate. */
  move({ directionX, directionZ, yaw, sprint }) {
    if (!this.connected) return;
    const now = performance.now();
    const last = this.#lastMove;
    const moving = directionX !== 0 || directionZ !== 0;
    const changed = directionX !== last.directionX || directionZ !== last.directionZ || sprint !== last.sprint;
    // Timers fire a little early or late: half a frame of slack keeps the rate near thirty a second.
    const due = now - this.#lastMoveSentAt >= (moving ? MOVING_MS - 8 : IDLE_MS - 8);
    if (!changed && !due) return;
    this.#inputSequence += 1;
    this.#lastMove = { directionX, directionZ, yaw, sprint };
    this.#lastMoveSentAt = now;
    const step = { sequence: this.#inputSequence, ...this.#lastMove, acknowledged: this.acknowledged() };
    this.#connection.send(CHANNEL_STATE, encodeMove(step));
  }

  /** Leaves of one's own accord. */
  leave() {
    if (this.connected) this.#connection.send(CHANNEL_COMMAND, encodeGoodbye());
    this.#stop();
  }

  #stop() {
    this.#ended = true;
    for (const timer of this.#timers) clearTimeout(timer); // clears intervals too
    this.#connection.close();
  }

  #end(reason, refusal) {
    if (this.#ended) return;
    this.#stop();
    this.#handlers.ended(reason, refusal);
  }

  #noWelcome() {
    if (!this.#welcomed) this.#end('The server did not answer the greeting.', null);
  }

  #heartbeat() {
    const now = performance.now();
    if (now - this.#heardAt > SILENCE_MS) {
      this.#end('Nothing was heard from the server for some seconds.', null);
      return;
    }
    if (!this.#welcomed) return;
    this.#nonce = (this.#nonce + 1) >>> 0;
    this.#pings.set(this.#nonce, now);
    if (this.#pings.size > 32) this.#pings.delete(this.#pings.keys().next().value);
    this.#connection.send(CHANNEL_STATE, encodePing({ nonce: this.#nonce, acknowledged: this.acknowledged() }));
  }

  /** One damaged message is reported and dropped; it never stops the client. */
  #receive(channel, bytes) {
    if (this.#ended) return;
    this.#heardAt = performance.now();
    try {
      if (channel === CHANNEL_COMMAND) this.#receiveMessage(decodeServerMessage(bytes));
      // Others' poses (3) and how steps come (4) are not for this page yet.
      else if (bytes[0] !== 3 && bytes[0] !== 4) this.#receiveDatagram(decodeServerDatagram(bytes));
    } catch (error) {
      this.#warnings += 1;
      if (this.#warnings <= 20) console.warn(`A message on channel ${channel} was dropped:`, error);
    }
  }

  #receiveMessage(message) {
    switch (message.kind) {
      case 'welcome':
        if (message.protocol !== PROTOCOL_VERSION) {
          this.#end(`The server speaks protocol ${message.protocol}, this page ${PROTOCOL_VERSION}. Reload it.`, null);
          return;
        }
        this.#welcomed = true;
        this.#nextCommand = message.lastCommand + 1;
        try {
          this.#handlers.welcome(message);
        } catch (error) {
          // Without the catalogue there is nothing to show.
          console.error('The welcome could not be used:', error);
          this.#end("The server's description of the game could not be read.", null);
        }
        break;
      case 'refused':
        this.#end(message.message || `Refused: ${message.text}.`, message.reason);
        break;
      case 'result': {
        const command = this.pending.get(message.sequence) ?? { kind: 'unknown' };
        this.pending.delete(message.sequence);
        this.#handlers.result({ ...message, command });
        break;
      }
      case 'view':
        this.#handlers.view(decodeView(message.payload));
        break;
    }
  }

  #receiveDatagram(datagram) {
    if (datagram.kind === 'snapshot') {
      if (this.#welcomed) this.#handlers.snapshot(datagram);
      return;
    }
    const sentAt = this.#pings.get(datagram.nonce);
    if (sentAt !== undefined) {
      this.#pings.delete(datagram.nonce);
      const sample = performance.now() - sentAt;
      this.rttMs = this.rttMs === null ? sample : this.rttMs + (sample - this.rttMs) * 0.2;
    }
    if (this.#welcomed) this.#handlers.pong(datagram);
  }
}
