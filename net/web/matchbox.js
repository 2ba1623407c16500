// The transport: matchbox signalling over a WebSocket, and the two WebRTC data channels it leads to.
//
// The server offers, this side answers. Both ends create the same negotiated channels: `matchbox_socket_0` is unreliable and
// unordered, `matchbox_socket_1` reliable and ordered. The WebSocket stays open while playing, because closing it makes a
// matchbox server report the peer gone; should it be lost all the same, the channels go on.

const KEEP_ALIVE_MS = 10_000;
const CONNECT_TIMEOUT_MS = 15_000;
/** More than this waiting on the unreliable channel means that newer datagrams would only come later: skip them. */
const STATE_BACKLOG_BYTES = 16 * 1024;

const CHANNELS = [
  { ordered: false, maxRetransmits: 0 },
  { ordered: true },
];

/** A connection to the shard. Handlers: `stage(text)`, `open()`, `message(channel, Uint8Array)`, `closed(reason)`. */
export class MatchboxConnection {
  #handlers;
  #iceServers;
  #socket;
  #peer = null;
  #server = null;
  #channels = [];
  #earlyCandidates = [];
  #keepAlive;
  #deadline;
  #open = false;
  #closed = false;

  /** `iceServers` as in `RTCConfiguration`: those that the shard tells of. */
  constructor(url, handlers, iceServers = []) {
    this.#handlers = handlers;
    this.#iceServers = iceServers;
    handlers.stage('Calling the server');
    this.#deadline = setTimeout(() => this.#end('The server could not be reached in time.'), CONNECT_TIMEOUT_MS);
    let called = false;
    this.#socket = new WebSocket(url);
    this.#socket.onmessage = (event) => {
      this.#signal(event.data).catch((error) => this.#end(`The connection could not be set up: ${error.message}`));
    };
    this.#socket.onclose = () => {
      clearInterval(this.#keepAlive);
      if (!this.#open) this.#end(called ? 'The server hung up before the connection stood.' : 'The server cannot be reached.');
    };
    this.#socket.onopen = () => {
      called = true;
      this.#keepAlive = setInterval(() => this.#sendSignalling('KeepAlive'), KEEP_ALIVE_MS);
    };
  }

  /** Sends bytes on a channel. Unreliable ones are dropped rather than queued behind a backlog. */
  send(channel, bytes) {
    const target = this.#channels[channel];
    if (this.#closed || target?.readyState !== 'open') return false;
    if (channel === 0 && target.bufferedAmount > STATE_BACKLOG_BYTES) return false;
    target.send(bytes);
    return true;
  }

  /** Closes everything without calling the `closed` handler. */
  close() {
    this.#closed = true;
    clearTimeout(this.#deadline);
    clearInterval(this.#keepAlive);
    for (const channel of this.#channels) channel.close();
    this.#peer?.close();
    this.#socket.close();
  }

  #end(reason) {
    if (this.#closed) return;
    this.close();
    this.#handlers.closed(reason);
  }

  #sendSignalling(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #sendToServer(data) {
    this.#sendSignalling({ Signal: { receiver: this.#server, data } });
  }

  async #signal(text) {
    const message = JSON.parse(text);
    if (message?.PeerLeft !== undefined && message.PeerLeft === this.#server) {
      this.#end('The server ended the connection.');
    } else if (message?.Signal) {
      const { sender, data } = message.Signal;
      if (data?.Offer !== undefined && this.#server === null) {
        await this.#answer(sender, data.Offer);
      } else if (data?.IceCandidate !== undefined && (this.#server === null || sender === this.#server)) {
        await this.#addCandidate(data.IceCandidate);
      }
    }
    // IdAssigned needs no answer; NewPeer asks for an offer, which a client of a server never has to make.
  }

  async #answer(sender, offer) {
    this.#server = sender;
    this.#handlers.stage('Opening channels');
    const peer = new RTCPeerConnection({ iceServers: this.#iceServers });
    this.#peer = peer;
    CHANNELS.forEach((options, id) => this.#openChannel(peer, options, id));
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === 'failed') this.#end('The connection to the server was lost.');
    };
    // The answer must be out before any candidate, so candidates wait for it.
    const waiting = [];
    let answered = false;
    peer.onicecandidate = ({ candidate }) => {
      const described = JSON.stringify(candidate && candidate.candidate !== '' ? candidate : null);
      if (answered) this.#sendToServer({ IceCandidate: described });
      else waiting.push(described);
    };
    await peer.setRemoteDescription({ type: 'offer', sdp: offer });
    for (const candidate of this.#earlyCandidates.splice(0)) await peer.addIceCandidate(candidate);
    await peer.setLocalDescription(await peer.createAnswer());
    if (this.#closed) return;
    this.#sendToServer({ Answer: peer.localDescription.sdp });
    answered = true;
    for (const described of waiting) this.#sendToServer({ IceCandidate: described });
  }

  #openChannel(peer, options, id) {
    const channel = peer.createDataChannel(`matchbox_socket_${id}`, { ...options, negotiated: true, id });
    channel.binaryType = 'arraybuffer';
    channel.onopen = () => {
      if (this.#open || !this.#channels.every((each) => each.readyState === 'open')) return;
      this.#open = true;
      clearTimeout(this.#deadline);
      this.#handlers.open();
    };
    channel.onmessage = ({ data }) => {
      if (!this.#closed && data instanceof ArrayBuffer) this.#handlers.message(id, new Uint8Array(data));
    };
    channel.onclose = () => this.#end('The server closed the connection.');
    this.#channels[id] = channel;
  }

  async #addCandidate(text) {
    const candidate = JSON.parse(text);
    if (candidate === null) return;
    if (this.#peer?.remoteDescription) await this.#peer.addIceCandidate(candidate);
    else if (this.#earlyCandidates.length < 64) this.#earlyCandidates.push(candidate);
  }
}
