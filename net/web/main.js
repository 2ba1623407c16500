// Brings the parts together: joining and rejoining, what keys and clicks mean, what results are told, the frame loop, and the
// window through which tests look in (`window.vsekai`).

import { Catalogue } from './catalogue.js';
import { Hud } from './hud.js';
import { Input } from './input.js';
import { Land } from './land.js';
import { OwnPlayer } from './own.js';
import { Renderer, drawMinimap } from './render.js';
import { Session } from './session.js';
import { Terrain } from './terrain.js';
import { WorldView } from './view.js';
import { cellAt, objection } from './building.js';

/** The land behind the join card; any seed would do. */
const TITLE_SEED = 42n;
const STATUS_MS = 1_000;
const RESULTS_KEPT = 20;
/** A server that went away is looked for as often, and as long. */
const SEARCH_STEP_MS = 1_000;
const SEARCH_MS = 300_000;
/** Refusals after which the player comes back by itself. */
const COMES_BACK_AFTER = new Set(['ShuttingDown', 'NotResumable']);
/** The server moves on while a click travels: this much beyond the reach is still worth asking. */
const REACH_SLACK_MM = 500;
const HOLD_TO_REPEAT_MS = 350;
const TURNS = ['north', 'east', 'south', 'west'];

const parameters = new URLSearchParams(location.search);
const reducedMotion = window.matchMedia('(prefers-reduced-motion: reduce)');
const canvas = document.getElementById('world');
const minimap = document.getElementById('minimap');
const renderer = new Renderer(canvas);
const titleLand = new Land(new Terrain(TITLE_SEED));

/** The session and everything that came with its welcome; null before the first. */
let session = null;
let world = null;
let playerName = '';
let serverStatus = null;
let yaw = 0;
/** `{piece, turn}` while building, `{demolish: true}` while demolishing, or null. */
let tool = null;
let turn = 0;
let storey = 0;
/** While demolishing: pieces above are hidden; null shows all. */
let demolishLimit = null;
let pressedAt = null;
let lastHarvestAt = -Infinity;
let lastStoreyChangeAt = -Infinity;
let shownInventory = -1;
const results = [];

// ---- Joining --------------------------------------------------------------------------------------------------------

/** What is kept between visits; a browser that keeps nothing still plays. */
function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Storage is switched off.
  }
}

/** By which the server knows this player where it issues tokens itself: a secret of this browser. */
function playerSecret() {
  const given = parameters.get('player') ?? remembered('vsekai-token');
  if (given) return given;
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const made = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  remember('vsekai-token', made);
  return made;
}

const ownSecret = playerSecret();
/** A token that the page was opened with serves once. */
let givenToken = parameters.get('token');

/** What the server answers, from JSON. Throws an Error that says what is wrong. */
async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error('The server cannot be reached.');
  }
  if (!answer.ok) throw new Error((await answer.text()).trim() || `The server answered ${answer.status}.`);
  return answer.json();
}

/** What it takes to join: a token, and the servers that help to connect; and which run of the server this is. */
async function credentials() {
  const { ice_servers: iceServers, motion_kbit_s: motionKbitS, run } = await asked('/api/connect');
  traffic.budget = isNumber(motionKbitS) ? motionKbitS / 8 : null;
  if (givenToken) {
    const token = givenToken;
    givenToken = null;
    return { token, iceServers, run };
  }
  const body = JSON.stringify({ secret: ownSecret });
  const headers = { 'content-type': 'application/json' };
  const { token } = await asked('/api/token', { method: 'POST', headers, body });
  return { token, iceServers, run };
}

/** Counts attempts to join: the last one counts. */
let joins = 0;

async function join(name) {
  joins += 1;
  const attempt = joins;
  playerName = name;
  remember('vsekai-name', name);
  session?.leave();
  search = null;
  const address = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/`;
  hud.showJoining('Calling the server');
  hud.setRejoining();
  let shown;
  try {
    shown = await credentials();
  } catch (error) {
    if (attempt === joins) ended(error.message, null);
    return;
  }
  if (attempt !== joins) return;
  serverRun = shown.run;
  const started = new Session(address, { name, ...shown }, {
    stage: (text) => hud.showJoining(text),
    welcome: (message) => enter(message),
    view: (view) => seeView(view),
    motion: (packet) => seeMotion(packet),
    pace: (slack) => world?.view.ownPlayer?.feedback(performance.now(), slack),
    pong: () => {},
    result: (result) => tellResult(result),
    interrupted: (reason) => interrupted(reason),
    resumed: (tick) => resumed(tick),
    ended: (reason, refusal) => ended(reason, refusal),
  });
  started.acks = () => world?.view.motion.acks ?? null;
  session = started;
}

/** Which run of the server the player joined. */
let serverRun = null;
/** The search for the server that is under way, `{anew}`, or null. */
let search = null;
/** Until when to look, on the page's clock; null while the player is in the world. */
let searchUntil = null;

/**
 * The server has gone, maybe to be started again at once: joins it when it answers, `anew` only as another run than the one that the player
 * was in.
 */
async function lookForServer(anew) {
  if (search?.anew === anew) return;
  const own = { anew };
  search = own;
  searchUntil ??= performance.now() + SEARCH_MS;
  while (performance.now() < searchUntil) {
    await new Promise((resolve) => setTimeout(resolve, SEARCH_STEP_MS));
    if (own !== search) return;
    try {
      const { run } = await asked('/api/connect');
      if (own !== search) return;
      if (!anew || run !== serverRun) {
        join(playerName);
        return;
      }
    } catch {
      // Not there yet.
    }
  }
  search = null;
}

/** The connection was lost. The session calls again by itself; what it cannot find again is a server that was started anew. */
function interrupted(reason) {
  hud.showLost(`${reason} Coming back …`);
  showStatus();
  lookForServer(true);
}

/** Back in the world, which the server now tells anew. */
function resumed(tick) {
  search = null;
  searchUntil = null;
  // The server goes on with the numbers that it knows.
  world.lastStep = world.view.ownPlayer?.sequence ?? world.lastStep;
  world.view = new WorldView({ ...world.seenBy, tick });
  shownInventory = -1;
  hud.showWorld();
  showStatus();
}

function enter(message) {
  const catalogue = new Catalogue(message.content);
  const terrain = new Terrain(message.seed);
  const seenBy = { player: message.player, tickHz: message.tickHz, gridMm: catalogue.gridMm, terrain };
  world = {
    catalogue,
    terrain,
    seenBy,
    tickHz: message.tickHz,
    worldHalfMm: message.worldHalfMm,
    walking: {
      ground: { terrain, halfMm: message.worldHalfMm },
      gait: catalogue.gait,
      tickHz: message.tickHz,
    },
    lastStep: 0,
    view: new WorldView({ ...seenBy, tick: message.tick }),
    land: new Land(terrain),
    shakes: new Map(),
    floaters: [],
  };
  searchUntil = null;
  shownInventory = -1;
  hud.setCatalogue(catalogue);
  setTool(null);
  hud.showWorld();
  showStatus();
}

function seeView(message) {
  if (!world) return;
  const stoodBefore = Boolean(world.view.own?.pose);
  world.view.applyView(message, performance.now());
  // The body looks where it looked when it was last here.
  if (stoodBefore || !world.view.own?.pose) return;
  yaw = world.view.own.pose.yaw;
  world.view.ownPlayer = new OwnPlayer({ ...world.walking, pose: world.view.own.pose, sequence: world.lastStep });
}

function seeMotion(packet) {
  if (!world) return;
  world.view.applyMotion(packet, performance.now());
  if (packet.own) world.view.ownPlayer?.reconcile(packet.newestInput, world.view.own.pose);
}

/** `refusal`: why the server ended it; null when it was not the server. */
function ended(reason, refusal) {
  if (!world) {
    hud.showJoin(playerName, reason);
  } else if (refusal === null || COMES_BACK_AFTER.has(refusal)) {
    hud.showLost(`${reason} Coming back as soon as the server is there …`);
    lookForServer(refusal === 'ShuttingDown');
  } else {
    hud.showLost(reason);
  }
  showStatus();
}

// ---- Tools ----------------------------------------------------------------------------------------------------------

function setTool(next) {
  tool = next;
  if (tool?.piece) {
    // Start on a storey where the piece can stand.
    if (tool.piece.needs === 'ground') storey = 0;
    else if (tool.piece.needs === 'walls') storey = Math.max(1, storey);
  } else {
    demolishLimit = null;
  }
  showTool();
}

function showTool() {
  let hint = '';
  if (tool?.piece) {
    const facing = tool.piece.slot === 'edge' ? `, ${TURNS[turn]} edge` : '';
    const turning = tool.piece.slot === 'edge' ? 'R turns · ' : '';
    hint = `${tool.piece.name} · storey ${storey}${facing} — ${turning}[ ] or wheel changes storey · Esc leaves`;
  } else if (tool?.demolish) {
    const shown = demolishLimit === null ? 'all storeys' : `up to storey ${demolishLimit}`;
    hint = `Demolish · ${shown} — click a piece · [ ] or wheel hides storeys · Esc leaves`;
  }
  hud.setTool(tool, hint);
}

function changeStorey(step) {
  const most = world?.catalogue.storeyMax ?? 0;
  if (tool?.piece) {
    storey = Math.min(most, Math.max(0, storey + step));
  } else if (tool?.demolish) {
    const next = (demolishLimit ?? most) + step;
    demolishLimit = next >= most ? null : Math.max(0, next);
  }
  showTool();
}

function send(command) {
  return session?.command(command) ?? null;
}

/** Asks the server for a harvest, unless it is plainly in vain. */
function harvest(node, { quiet = false } = {}) {
  const { view, catalogue } = world;
  const refuse = (text) => quiet || hud.toast(text, 'bad');
  if (node.resource.left === 0) return refuse('Nothing is left of it for now');
  if (distanceMm(node) > catalogue.reachMm + REACH_SLACK_MM) return refuse('Too far away: walk nearer');
  if (!view.own) return undefined;
  lastHarvestAt = performance.now();
  return send({ kind: 'harvest', node: node.id });
}

function distanceMm(entity) {
  const own = world.view.own?.pose;
  return own ? Math.hypot(entity.x - own.x, entity.z - own.z) : Infinity;
}

function harvestNearest() {
  let nearest = null;
  for (const entity of world.view.entities.values()) {
    if (!entity.resource || entity.resource.left === 0 || entity.x === undefined) continue;
    if (!nearest || distanceMm(entity) < distanceMm(nearest)) nearest = entity;
  }
  if (nearest) harvest(nearest);
}

function clickWorld(pointer) {
  if (!world || !session?.connected) return;
  if (tool?.piece) {
    const ghost = ghostAt(pointer);
    const { column, row, level } = ghost;
    send({ kind: 'build', piece: ghost.piece.id, column, row, level, turn: ghost.turn });
  } else if (tool?.demolish) {
    const piece = renderer.pieceAt(scene(), pointer.x, pointer.y);
    if (piece) send({ kind: 'demolish', structure: piece.id });
  } else {
    const node = renderer.nodeAt(scene(), pointer.x, pointer.y);
    if (node) harvest(node);
  }
}

/** The piece that a click at the pointer would build. */
function ghostAt(pointer) {
  const { catalogue, terrain, view } = world;
  const point = renderer.camera.toWorld(pointer.x, pointer.y, storey);
  const { column, row } = cellAt(point.x * 1_000, point.z * 1_000, catalogue.gridMm);
  const ghost = { piece: tool.piece, column, row, level: storey, turn: tool.piece.slot === 'edge' ? turn : 0 };
  ghost.objection = objection({ view, catalogue, terrain, ...ghost });
  return ghost;
}

/** Holding the button on a node goes on harvesting as fast as allowed. */
function repeatHarvest(now) {
  if (pressedAt === null || tool || !input.pointer || now - pressedAt < HOLD_TO_REPEAT_MS) return;
  if (now - lastHarvestAt < Math.max(300, world.catalogue.harvestIntervalMs + 60) || session.pending.size > 0) return;
  const node = renderer.nodeAt(scene(), input.pointer.x, input.pointer.y);
  if (node) harvest(node, { quiet: true });
}

// ---- Results --------------------------------------------------------------------------------------------------------

function tellResult({ sequence, frame, outcome, command }) {
  const text = outcome.done ? doneInWords(command, outcome) : `${verb(command)}: ${outcome.text}`;
  results.push({ sequence, command: command.kind, ok: outcome.done, text, reason: outcome.reason ?? null, frame });
  if (results.length > RESULTS_KEPT) results.shift();
  if (!outcome.done) {
    hud.toast(text, 'bad');
    return;
  }
  if (command.kind !== 'move_items') hud.toast(text);
  if (command.kind === 'harvest') {
    const node = world.view.entities.get(command.node);
    if (node?.x === undefined) return;
    const now = performance.now();
    world.shakes.set(node.id, now);
    const gains = world.catalogue.changesInWords(outcome.items);
    world.floaters.push({ x: node.x / 1_000, z: node.z / 1_000, text: gains, born: now });
  }
}

function doneInWords(command, { items }) {
  const changes = world.catalogue.changesInWords(items);
  const inBrackets = changes ? ` (${changes})` : '';
  switch (command.kind) {
    case 'harvest':
      return changes || 'Harvested';
    case 'craft':
      return `${world.catalogue.recipes.get(command.recipe)?.name ?? 'Crafted'}${changes ? `: ${changes}` : ''}`;
    case 'build':
      return `Built ${world.catalogue.pieces.get(command.piece)?.name ?? 'a piece'}${inBrackets}`;
    case 'demolish':
      return `Demolished${inBrackets}`;
    case 'move_items':
      return 'Moved';
    default:
      return `Done${inBrackets}`;
  }
}

function verb(command) {
  switch (command.kind) {
    case 'harvest':
      return 'Cannot harvest';
    case 'craft':
      return 'Cannot craft';
    case 'build':
      return 'Cannot build';
    case 'demolish':
      return 'Cannot demolish';
    case 'move_items':
      return 'Cannot move';
    default:
      return 'Cannot do that';
  }
}

// ---- Keys and mouse -------------------------------------------------------------------------------------------------

function pressKey(code, event) {
  if (!world) return;
  const number = /^(?:Digit|Numpad)([1-9])$/.exec(code)?.[1];
  if (number) {
    const piece = hud.pieceByNumber(Number(number));
    if (piece) setTool(tool?.piece === piece ? null : { piece });
    return;
  }
  // The signs are asked for by what they write, since keyboards have them in different places.
  if (event.key === '[') changeStorey(-1);
  else if (event.key === ']') changeStorey(1);
  else if (event.key === '+' || event.key === '=') renderer.camera.zoomBy(1.25);
  else if (event.key === '-') renderer.camera.zoomBy(0.8);
  else if (code === 'PageDown') changeStorey(-1);
  else if (code === 'PageUp') changeStorey(1);
  else if (code === 'KeyR' && tool?.piece) {
    turn = (turn + (event.shiftKey ? 3 : 1)) % 4;
    showTool();
  } else if (code === 'KeyX') setTool(tool?.demolish ? null : { demolish: true });
  else if (code === 'KeyE') harvestNearest();
  else if (code === 'KeyI') hud.toggle('inventory');
  else if (code === 'KeyC') hud.toggle('crafting');
  else if (code === 'KeyH') hud.toggle('help');
  else if (code === 'Escape' && !hud.unpick()) setTool(null);
}

function turnWheel(direction, event) {
  if (tool && !event.shiftKey) {
    const now = performance.now();
    if (now - lastStoreyChangeAt < 140) return;
    lastStoreyChangeAt = now;
    changeStorey(-direction);
    return;
  }
  const pixels = Math.max(-150, Math.min(150, event.deltaMode === 0 ? event.deltaY : event.deltaY * 33));
  renderer.camera.zoomBy(Math.exp(-pixels * 0.0016));
}

/** Tells the session which way to walk; called by timer and at each change. */
function walk() {
  const { x, z, sprint } = input.walking;
  if (x !== 0 || z !== 0) yaw = Math.round((Math.atan2(x, -z) / (Math.PI * 2)) * 65_536) & 0xffff;
  const steps = world?.view.ownPlayer?.walk(performance.now(), { directionX: x, directionZ: z, yaw, sprint });
  if (steps) session?.steps(steps);
}

const hud = new Hud({
  join,
  rejoin: () => join(playerName),
  craft: (recipe) => send({ kind: 'craft', recipe: recipe.id }),
  piece: (piece) => setTool(tool?.piece === piece ? null : { piece }),
  demolish: () => setTool(tool?.demolish ? null : { demolish: true }),
  move: (from, to, count) => send({ kind: 'move_items', from, to, count }),
});

const input = new Input(canvas, {
  key: pressKey,
  press: (pointer) => {
    pressedAt = performance.now();
    clickWorld(pointer);
  },
  release: () => (pressedAt = null),
  wheel: turnWheel,
  changed: walk,
});

// ---- Status ---------------------------------------------------------------------------------------------------------

async function pollStatus() {
  try {
    const answer = await fetch('/api/status', { cache: 'no-store', signal: AbortSignal.timeout(3_000) });
    serverStatus = answer.ok ? await answer.json() : null;
  } catch {
    serverStatus = null;
  }
  showStatus();
  setTimeout(pollStatus, STATUS_MS);
}

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);
const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

function showStatus() {
  const players = isNumber(serverStatus?.players) ? count(serverStatus.players, 'player', 'players') : '';
  hud.setJoinInfo(players ? `The server is up: ${players} in the world.` : 'The server does not answer yet.');
  if (!world) return;
  const own = world.view.own?.pose;
  const lag = durabilityLag();
  const rtt = session?.rttMs ?? null;
  const p99 = serverStatus?.tick_ms?.p99;
  const connected = Boolean(session?.connected);
  const standing = typeof serverStatus?.standing === 'string';
  const level = !connected || standing ? 'bad' : rtt === null || rtt > 250 || (lag?.ms ?? 0) > 2_000 ? 'fair' : 'good';
  const metres = (mm) => (mm / 1_000).toFixed(1);
  hud.setStatus(
    {
      connection: connected ? playerName : 'Not connected',
      players,
      rtt: rtt === null ? '–' : `${rtt < 10 ? rtt.toFixed(1) : Math.round(rtt)} ms`,
      tick: standing ? 'stands still' : isNumber(p99) ? `${p99.toFixed(p99 < 10 ? 2 : 1)} ms` : '–',
      durable: lag ? `${count(lag.frames, 'frame', 'frames')} · ${Math.round(lag.ms)} ms` : '–',
      loss: traffic.loss,
      motion: traffic.motion,
      world: traffic.world,
      other: traffic.other,
      corrected: corrections(),
      position: own ? `${metres(own.x)}, ${metres(own.z)} · ${metres(own.y)} m` : '–',
    },
    level,
  );
}

/** How often the server put the own player right, and by how much at most. */
function corrections() {
  const counts = world.view.ownPlayer?.counts;
  if (!counts || counts.compared === 0) return '–';
  const percent = (counts.corrected * 100) / counts.compared;
  return `${percent.toFixed(1)} % · ≤ ${counts.errorMaxMm} mm`;
}

/** Loss and bytes of the last seconds; of motion also which part of its budget, kB/s, that is. */
const traffic = { loss: '–', motion: '–', world: '–', other: '–', at: 0, before: null, budget: null };

function measureTraffic() {
  if (!world || !session) return;
  const now = performance.now();
  const seen = { session, view: world.view, ...session.bytes, ...world.view.motion.counts };
  const before = traffic.before;
  if (before?.session === session && before.view === world.view) {
    const seconds = Math.max(0.1, (now - traffic.at) / 1_000);
    const sent = seen.sent - before.sent;
    const lost = Math.max(0, sent - (seen.came - before.came));
    const rate = (kind) => ((seen[kind] - before[kind]) / 1_000 / seconds).toFixed(1);
    traffic.loss = sent > 0 ? `${((lost * 100) / sent).toFixed(1)} %` : '–';
    const used = traffic.budget ? ` · ${Math.round((rate('motion') * 100) / traffic.budget)} %` : '';
    traffic.motion = `${rate('motion')} kB/s${used}`;
    traffic.world = `${rate('world')} kB/s`;
    traffic.other = `${rate('other')} kB/s`;
  }
  traffic.at = now;
  traffic.before = seen;
}

/** How far what is on disk is behind what was computed. */
function durabilityLag() {
  const { tick, durable_frame: durable } = serverStatus ?? {};
  if (!isNumber(tick) || !isNumber(durable)) return null;
  const frames = Math.max(0, tick - durable);
  const tickHz = isNumber(serverStatus.tick_hz) && serverStatus.tick_hz > 0 ? serverStatus.tick_hz : world.tickHz;
  return { frames, ms: (frames * 1_000) / tickHz };
}

// ---- Frames ---------------------------------------------------------------------------------------------------------

/** What the renderer needs to know, without what the pointer adds. */
function scene() {
  return {
    ...world,
    storeyLimit: tool?.piece ? storey : tool?.demolish ? demolishLimit : null,
    demolishing: Boolean(tool?.demolish),
    hover: null,
    hoverInReach: false,
    ghost: null,
    still: reducedMotion.matches,
  };
}

function frame(now) {
  requestAnimationFrame(frame);
  watchPace(now);
  try {
    if (world) drawWorld(now);
    else drawTitle(now);
  } catch (error) {
    reportFrameError(error);
  }
}

let lastFrameAt = 0;
let slowness = 16;

/** A machine that cannot keep up gets plain panels. The average leaves out pauses, such as a hidden tab. */
function watchPace(now) {
  const took = now - lastFrameAt;
  lastFrameAt = now;
  if (took > 250 || now < 3_000) return;
  slowness += (took - slowness) * 0.02;
  if (slowness > 27) document.body.dataset.effects = 'few';
}

let frameErrors = 0;

/** A frame that fails must not stop the next one, nor fill the console. */
function reportFrameError(error) {
  frameErrors += 1;
  if (frameErrors <= 5) console.error('A frame could not be drawn:', error);
}

function drawTitle(now) {
  const drift = reducedMotion.matches ? 0 : now / 1_000;
  renderer.camera.targetScale = 9;
  renderer.drawLand(titleLand, -215 + drift * 1.1, 75 + drift * 0.3, now);
  renderer.camera.targetScale = 30;
}

function drawWorld(now) {
  const { view, catalogue } = world;
  if (shownInventory !== view.inventoryVersion) {
    shownInventory = view.inventoryVersion;
    hud.setInventory(view.slots, view.held());
  }
  const shown = scene();
  world.floaters = world.floaters.filter((floater) => now - floater.born < 1_400);
  shown.floaters = world.floaters;
  const tooltip = session?.connected ? pointAt(shown, now) : null;
  renderer.draw(shown, now);
  hud.setTooltip(input.pointer, tooltip);
  canvas.style.cursor = tool ? 'crosshair' : shown.hover ? (shown.hoverInReach ? 'pointer' : 'not-allowed') : 'default';
  if (session?.connected) repeatHarvest(now);

  /** Finds what is under the pointer, notes it in the scene, and gives the lines of the tooltip. */
  function pointAt(target, time) {
    const pointer = input.pointer;
    if (!pointer) return null;
    if (tool?.piece) {
      target.ghost = ghostAt(pointer);
      return target.ghost.objection ? [target.ghost.objection] : null;
    }
    if (tool?.demolish) {
      target.hover = renderer.pieceAt(target, pointer.x, pointer.y);
      if (!target.hover) return null;
      const { piece, health } = target.hover.structure;
      const kind = catalogue.pieces.get(piece);
      return [kind?.name ?? 'A piece', kind ? `strength ${health} of ${kind.health}` : `strength ${health}`];
    }
    const walker = renderer.walkerAt(target, pointer.x, pointer.y, time);
    if (walker && walker !== view.own) return [walker.player?.name ?? 'A player'];
    target.hover = renderer.nodeAt(target, pointer.x, pointer.y);
    if (!target.hover) return null;
    const { kind, left, regrowAt } = target.hover.resource;
    const node = catalogue.nodes.get(kind);
    target.hoverInReach = left > 0 && distanceMm(target.hover) <= catalogue.reachMm;
    let detail = `${left} of ${node?.harvests ?? '?'} harvests left`;
    if (left === 0) {
      const seconds = Math.ceil((regrowAt - view.tickNow(time)) / world.tickHz);
      detail = seconds > 0 && seconds < 1e7 ? `depleted, grows again in ${inWords(seconds)}` : 'depleted';
    } else if (!target.hoverInReach) {
      detail += ' · too far';
    }
    return [node?.name ?? 'A node', detail];
  }
}

function inWords(seconds) {
  return seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}

// ---- Looking in -----------------------------------------------------------------------------------------------------

/** A plain object that says what this client knows. */
function debug() {
  const view = world?.view;
  const catalogue = world?.catalogue;
  const place = ({ x, y, z }) => ({ x, y, z });
  const nodes = [];
  const structures = [];
  const others = [];
  for (const entity of view?.entities.values() ?? []) {
    if (entity.resource && entity.x !== undefined) {
      const { kind, left } = entity.resource;
      const distance = distanceMm(entity);
      nodes.push({
        id: entity.id,
        kind,
        key: catalogue.nodes.get(kind)?.key ?? null,
        x: entity.x,
        z: entity.z,
        left,
        distance_mm: Number.isFinite(distance) ? Math.round(distance) : null,
      });
    }
    if (entity.structure) {
      const { piece, column, row, level, turn: pieceTurn, health } = entity.structure;
      const key = catalogue.pieces.get(piece)?.key ?? null;
      structures.push({ id: entity.id, piece, key, column, row, level, turn: pieceTurn, health });
    }
    if (entity.pose && entity !== view.own) {
      others.push({ id: entity.id, name: entity.player?.name ?? null, x: entity.pose.x, z: entity.pose.z });
    }
  }
  nodes.sort((a, b) => (a.distance_mm ?? 0) - (b.distance_mm ?? 0));
  const inventory = {};
  for (const [item, held] of view?.held() ?? []) inventory[catalogue.itemKey(item)] = held;
  return {
    connected: Boolean(session?.connected),
    player: view?.playerId ?? null,
    name: playerName,
    position: view?.own?.pose ? place(view.own.pose) : null,
    yaw: view?.own?.pose?.yaw ?? null,
    nodes: nodes.slice(0, 50),
    structures,
    others,
    inventory,
    slots: (view?.slots ?? []).map((slot) => slot && { item: catalogue.itemKey(slot.item), count: slot.count }),
    results: results.map((result) => ({ ...result })),
    pending: session?.pending.size ?? 0,
    run: serverRun,
    rtt_ms: session?.rttMs ?? null,
    acknowledged: view?.motion.acks?.newest ?? null,
    undecodable: view?.motion.undecodable ?? 0,
    shown: view?.ownPlayer ? place(view.ownPlayer.poseAt(performance.now())) : null,
    prediction: view?.ownPlayer?.counts ?? null,
    entities: view?.entities.size ?? 0,
    tool: tool?.piece ? tool.piece.key : tool?.demolish ? 'demolish' : null,
    storey,
    turn,
    scale: renderer.camera.scale,
    message: document.getElementById('banner').hidden
      ? document.getElementById('join-message').textContent
      : document.getElementById('banner-text').textContent,
    frame_errors: frameErrors,
  };
}

window.vsekai = Object.freeze({
  debug,
  /** CSS pixels of a point in the world, for clicking; `level` for what stands on a higher storey. */
  screen: (xMm, zMm, level = 0) => {
    const { x, y } = renderer.camera.toScreen(xMm / 1_000, zMm / 1_000, level);
    return { x, y };
  },
  /** Walks in a direction (−1…1 each) until called with zeros, which gives the keys back. */
  walk: (dx, dz, sprint = false) => {
    input.script(dx || dz ? { x: dx, z: dz, sprint } : null);
    walk();
  },
});

// ---- Start ----------------------------------------------------------------------------------------------------------

window.addEventListener('resize', () => renderer.resize());
window.addEventListener('pagehide', () => session?.leave());
setInterval(walk, 1_000 / 60);
setInterval(showStatus, 250);
setInterval(measureTraffic, 2_000);
setInterval(() => world && drawMinimap(minimap, world, performance.now()), 150);
requestAnimationFrame(frame);
pollStatus();

const wantedName = parameters.get('name') ?? remembered('vsekai-name') ?? '';
hud.showJoin(wantedName);
if (parameters.get('autojoin') === '1' && wantedName) join(wantedName);
