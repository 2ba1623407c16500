// One stay on the server: hello and welcome, numbered commands with their pending results, movement, pings and the
// heartbeat. It decodes what arrives and hands it on; what the world looks like is the business of `view.js`.
//
// A lost connection does not end the stay: as long as the server keeps the player in the world, the session calls again and
// goes on, without losing or doubling a result.

import { MatchboxConnection } from './matchbox.js';
import {
  CHANNEL_COMMAND,
  CHANNEL_STATE,
  MOTION_KIND,
  PROTOCOL_VERSION,
  REFUSALS,
  SERVER_POSES,
  decodeServerDatagram,
  decodeServerMessage,
  decodeView,
  encodeClientDatagram,
  encodeClientMessage,
  encodeSteps,
} from './wire.js';

const PING_MS = 500;
const WELCOME_TIMEOUT_MS = 10_000;
/** Nothing at all from the server for this long means that it is gone (it answers pings). */
const SILENCE_MS = 7_000;
/** The server is told what arrived each time that so many results came. */
const RESULTS_UNTOLD_MAX = 16;
const CALL_AGAIN_MS = 700;
/** The only refusal that a session survives: the network may be to blame. */
const TIMED_OUT = 'TimedOut';

/**
 * Handlers: `stage(text)`, `welcome(message)`, `view(view)`, `motion(packet)`, `poses(entries)`, `pace(slack)`, `pong(pong)`,
 * `result({sequence, command, frame, outcome})`, `interrupted(reason)`, `resumed(tick)` (forget what was seen: it all comes
 * anew), `ended(reason, refusal | null)`.
 */
export class Session {
  /** Smoothed round trip in milliseconds, or null before the first pong. */
  rttMs = null;
  /** Commands without a result: sequence → command. */
  pending = new Map();
  /** Bytes that came, by kind: how others move, their heads and hands, everything that comes in order, the rest. */
  bytes = { motion: 0, poses: 0, world: 0, other: 0 };
  /** Set by the owner: says which motion packets arrived. */
  acks = () => null;

  #connection;
  #handlers;
  #welcomed = false;
  #ended = false;
  #nextCommand = 1;
  #heardAt = performance.now();
  #pings = new Map();
  #nonce = 0;
  #timers = [];
  #warnings = 0;

  #address;
  #iceServers;
  /** `{ secret, seconds }` once the server has given it. */
  #ticket = null;
  #results = 0;
  #resultsTold = 0;
  /** While the connection is lost: until when to call again, on the page's clock. */
  #lostUntil = null;

  /** `address` is that of signalling, without a query. */
  constructor(address, { name, token, iceServers = [] }, handlers) {
    this.#handlers = handlers;
    this.#address = address;
    this.#iceServers = iceServers;
    // A rate of 0 takes the server's.
    const hello = encodeClientMessage({ kind: 'hello', protocol: PROTOCOL_VERSION, token, name, tickHz: 0 });
    this.#connect(`${address}?token=${encodeURIComponent(token)}`, hello, (reason) => this.#lose(reason));
  }

  #connect(url, greeting, failed) {
    const connection = new MatchboxConnection(
      url,
      {
        stage: (text) => this.#lostUntil === null && this.#handlers.stage(text),
        open: () => {
          if (this.#lostUntil === null) this.#handlers.stage('Entering the world');
          this.#heardAt = performance.now();
          connection.send(CHANNEL_COMMAND, greeting);
          this.#timers.push(setTimeout(() => this.#noAnswer(connection), WELCOME_TIMEOUT_MS));
          this.#timers.push(setInterval(() => this.#heartbeat(), PING_MS));
        },
        message: (channel, bytes) => this.#receive(channel, bytes),
        closed: (reason) => failed(reason),
      },
      this.#iceServers,
    );
    this.#connection = connection;
  }

  /** True between the welcome and the end. */
  get connected() {
    return this.#welcomed && !this.#ended && this.#lostUntil === null;
  }

  /** Sends a command and returns its sequence, or null when it could not be sent. */
  command(command) {
    if (!this.connected) return null;
    const sequence = this.#nextCommand;
    if (!this.#connection.send(CHANNEL_COMMAND, encodeClientMessage({ kind: 'command', sequence, command }))) return null;
    this.#nextCommand += 1;
    this.pending.set(sequence, command);
    return sequence;
  }

  /** Sends the newest steps, the oldest first. */
  steps(newest) {
    if (!this.connected) return;
    this.#connection.send(CHANNEL_STATE, encodeSteps(newest, this.acks()));
  }

  /** Leaves of one's own accord. */
  leave() {
    if (this.connected) this.#connection.send(CHANNEL_COMMAND, encodeClientMessage({ kind: 'goodbye' }));
    this.#stop();
  }

  #stop() {
    this.#ended = true;
    this.#hangUp();
  }

  #hangUp() {
    for (const timer of this.#timers.splice(0)) clearTimeout(timer); // clears intervals too
    this.#pings.clear();
    this.#connection.close();
  }

  /** The connection is gone: calls again as long as the server keeps the player, else the stay is over. */
  #lose(reason) {
    if (this.#ended) return;
    this.#hangUp();
    const now = performance.now();
    if (this.#welcomed && this.#ticket && this.#lostUntil === null) {
      this.#lostUntil = now + this.#ticket.seconds * 1_000;
    }
    if (this.#lostUntil === null || now > this.#lostUntil) {
      this.#end(reason, null);
      return;
    }
    this.#handlers.interrupted(reason);
    this.#timers.push(setTimeout(() => this.#callAgain(), CALL_AGAIN_MS));
  }

  #callAgain() {
    const { secret } = this.#ticket;
    const shown = Array.from(secret, (byte) => byte.toString(16).padStart(2, '0')).join('');
    const greeting = encodeClientMessage({ kind: 'resume', protocol: PROTOCOL_VERSION, secret, results: this.#results });
    this.#connect(`${this.#address}?resume=${shown}`, greeting, (reason) => this.#lose(reason));
  }

  /** The server knows us: what it does not have yet is sent again. */
  #takeUpAgain({ tick, received }) {
    this.#lostUntil = null;
    this.#resultsTold = this.#results;
    this.#handlers.resumed(tick);
    for (const [sequence, command] of this.pending) {
      if (sequence <= received) continue;
      this.#connection.send(CHANNEL_COMMAND, encodeClientMessage({ kind: 'command', sequence, command }));
    }
  }

  #end(reason, refusal) {
    if (this.#ended) return;
    this.#stop();
    this.#handlers.ended(reason, refusal);
  }

  #noAnswer(connection) {
    const answered = this.#welcomed && this.#lostUntil === null;
    if (connection === this.#connection && !answered) this.#lose('The server did not answer the greeting.');
  }

  #heartbeat() {
    const now = performance.now();
    if (now - this.#heardAt > SILENCE_MS) {
      this.#lose('Nothing was heard from the server for some seconds.');
      return;
    }
    if (!this.connected) return;
    this.#nonce = (this.#nonce + 1) >>> 0;
    this.#pings.set(this.#nonce, now);
    if (this.#pings.size > 32) this.#pings.delete(this.#pings.keys().next().value);
    this.#connection.send(CHANNEL_STATE, encodeClientDatagram({ kind: 'ping', nonce: this.#nonce, acks: this.acks() }));
  }

  /** One damaged message is reported and dropped; it never stops the client. */
  #receive(channel, bytes) {
    if (this.#ended) return;
    this.#heardAt = performance.now();
    this.#count(channel, bytes);
    try {
      if (channel === CHANNEL_COMMAND) this.#receiveMessage(decodeServerMessage(bytes));
      else this.#receiveDatagram(decodeServerDatagram(bytes));
    } catch (error) {
      this.#warnings += 1;
      if (this.#warnings <= 20) console.warn(`A message on channel ${channel} was dropped:`, error);
    }
  }

  #count(channel, bytes) {
    if (channel === CHANNEL_COMMAND) this.bytes.world += bytes.length;
    else if (bytes[0] === MOTION_KIND) this.bytes.motion += bytes.length;
    else if (bytes[0] === SERVER_POSES) this.bytes.poses += bytes.length;
    else this.bytes.other += bytes.length;
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
      case 'resumable':
        this.#ticket = { secret: message.secret, seconds: message.seconds };
        break;
      case 'resumed':
        this.#takeUpAgain(message);
        break;
      case 'refused':
        if (message.reason === TIMED_OUT) this.#lose(message.message);
        else this.#end(message.message || `Refused: ${REFUSALS[message.reason] ?? message.reason}.`, message.reason);
        break;
      case 'result': {
        const command = this.pending.get(message.sequence) ?? { kind: 'unknown' };
        this.pending.delete(message.sequence);
        this.#results = (this.#results + 1) >>> 0;
        if (this.#results - this.#resultsTold >= RESULTS_UNTOLD_MAX) {
          this.#resultsTold = this.#results;
          this.#connection.send(CHANNEL_COMMAND, encodeClientMessage({ kind: 'seen', results: this.#results }));
        }
        this.#handlers.result({ ...message, command });
        break;
      }
      case 'view':
        this.#handlers.view(decodeView(message.value));
        break;
    }
  }

  #receiveDatagram(datagram) {
    if (datagram.kind === 'steps') {
      if (this.#welcomed) this.#handlers.pace(datagram.slack);
      return;
    }
    if (datagram.kind === 'motion') {
      if (this.#welcomed) this.#handlers.motion(datagram);
      return;
    }
    if (datagram.kind === 'poses') {
      if (this.#welcomed) this.#handlers.poses(datagram.entries);
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
