// Draws a frame: the land, what stands on it sorted from north to south, higher storeys above, then marks and labels. Also
// the camera, which turns world millimetres into screen pixels and back, and finding what is under the pointer.

import { pointing } from './pose.js';
import { Sprites, paintFlames, paintPlayer, playerHue } from './sprites.js';
import { chunkKey } from './view.js';
import { CHUNK_MM, POSE_PARTS } from './wire.js';

const CHUNK_M = CHUNK_MM / 1_000;
/** Each storey is drawn this much further up the screen, metres: as high as walls look. */
const STOREY_LIFT_M = 0.5;
/** What stands outside the window can still reach into it by this much, metres. */
const MARGIN_M = 4;
const SCALE_MIN = 5;
const SCALE_MAX = 80;
const SCALE_START = 30;
/** Time per frame for painting land tiles, milliseconds. */
const TILE_BUDGET_MS = 5;

/** Looks down on the world. `x`, `z` in metres; `scale` in CSS pixels a metre. */
export class Camera {
  x = 0;
  z = 0;
  scale = SCALE_START;
  targetScale = SCALE_START;
  width = 1;
  height = 1;

  zoomBy(factor) {
    this.targetScale = Math.min(SCALE_MAX, Math.max(SCALE_MIN, this.targetScale * factor));
  }

  /** Moves towards a point; `seconds` since the last frame. */
  follow(x, z, seconds, { jump = false } = {}) {
    const far = Math.hypot(x - this.x, z - this.z) > 40;
    const pull = jump || far ? 1 : 1 - Math.exp(-seconds * 18);
    this.x += (x - this.x) * pull;
    this.z += (z - this.z) * pull;
    this.scale += (this.targetScale - this.scale) * (jump ? 1 : 1 - Math.exp(-seconds * 12));
    if (Math.abs(this.scale / this.targetScale - 1) < 0.001) this.scale = this.targetScale;
  }

  /** CSS pixels of a point given in metres. */
  toScreen(x, z, level = 0) {
    return {
      x: (x - this.x) * this.scale + this.width / 2,
      y: (z - level * STOREY_LIFT_M - this.z) * this.scale + this.height / 2,
    };
  }

  /** Metres of a point given in CSS pixels. */
  toWorld(x, y, level = 0) {
    return {
      x: (x - this.width / 2) / this.scale + this.x,
      z: (y - this.height / 2) / this.scale + this.z + level * STOREY_LIFT_M,
    };
  }
}

export class Renderer {
  camera = new Camera();

  #canvas;
  #context;
  #sprites = new Sprites();
  #ratio = 1;
  #lastFrame = 0;
  #strides = new Map();

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d', { alpha: false });
    this.resize();
  }

  resize() {
    this.#ratio = Math.min(2.5, window.devicePixelRatio || 1);
    this.camera.width = this.#canvas.clientWidth || window.innerWidth;
    this.camera.height = this.#canvas.clientHeight || window.innerHeight;
    this.#canvas.width = Math.round(this.camera.width * this.#ratio);
    this.#canvas.height = Math.round(this.camera.height * this.#ratio);
  }

  /** Only the land, for the title picture. */
  drawLand(land, x, z, now) {
    this.#begin(now, x, z, true);
    this.#drawTiles(land, now);
  }

  /**
   * One frame. `scene`: `view`, `land`, `catalogue`, `worldHalfMm`, `storeyLimit` (pieces above are hidden; null = none),
   * `hover` (entity or null), `ghost` (`{piece, column, row, level, turn, objection}` or null), `demolishing`, `shakes` (entity
   * id → time), `floaters` (`{x, z, text, born}` in metres), `still` (reduced motion).
   */
  draw(scene, now) {
    const { view } = scene;
    const own = view.own?.samples.length ? view.poseAt(view.own, now) : null;
    const seconds = this.#begin(now, own ? own.x / 1_000 : this.camera.x, own ? own.z / 1_000 : this.camera.z, false);
    this.#drawTiles(scene.land, now);
    this.#drawWorldEdge(scene.worldHalfMm);
    if (scene.ghost || scene.demolishing) this.#drawGrid(scene, own);

    const visible = this.#collect(scene, own, now);
    for (const piece of visible.floors[0] ?? []) this.#drawPiece(scene, piece, now);
    visible.standing.sort((a, b) => a.sort - b.sort);
    for (const each of visible.standing) {
      if (each.walker) this.#drawWalker(scene, each.walker, each.pose, seconds, now);
      else if (each.entity.structure) this.#drawPiece(scene, each.entity, now);
      else this.#drawNode(scene, each.entity, now);
    }
    for (let level = 1; level < Math.max(visible.floors.length, visible.upper.length); level += 1) {
      this.#drawStoreyShadow(scene, visible.floors[level] ?? [], level);
      for (const piece of visible.floors[level] ?? []) this.#drawPiece(scene, piece, now, own);
      const upper = (visible.upper[level] ?? []).sort((a, b) => a.sort - b.sort);
      for (const { entity } of upper) this.#drawPiece(scene, entity, now, own);
    }
    if (scene.ghost) this.#drawGhost(scene);
    for (const { walker, pose } of visible.standing) if (walker) this.#drawName(scene, walker, pose);
    this.#drawFloaters(scene, now);
  }

  #begin(now, x, z, jump) {
    const seconds = Math.min(0.1, (now - this.#lastFrame) / 1_000);
    this.camera.follow(x, z, seconds, { jump });
    this.#lastFrame = now;
    this.#context.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
    this.#context.globalAlpha = 1;
    return seconds;
  }

  /** The chunks in the window: `{x0, z0, x1, z1}`. */
  #chunkWindow(marginM) {
    const { camera } = this;
    const northWest = camera.toWorld(0, 0);
    const southEast = camera.toWorld(camera.width, camera.height);
    return {
      x0: Math.floor((northWest.x - marginM) / CHUNK_M),
      z0: Math.floor((northWest.z - marginM) / CHUNK_M),
      x1: Math.floor((southEast.x + marginM) / CHUNK_M),
      z1: Math.floor((southEast.z + marginM) / CHUNK_M),
    };
  }

  #drawTiles(land, now) {
    const context = this.#context;
    const { camera } = this;
    const density = camera.scale * this.#ratio;
    const grade = density > 8 ? 'fine' : density > 1.2 ? 'base' : 'mini';
    const budget = { until: performance.now() + TILE_BUDGET_MS };
    const { x0, z0, x1, z1 } = this.#chunkWindow(0);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = 'high';
    // From the middle outwards, so that what the player looks at gets its detail first.
    const chunks = [];
    for (let z = z0; z <= z1; z += 1) for (let x = x0; x <= x1; x += 1) chunks.push([x, z]);
    const distance = ([x, z]) => Math.hypot((x + 0.5) * CHUNK_M - camera.x, (z + 0.5) * CHUNK_M - camera.z);
    chunks.sort((a, b) => distance(a) - distance(b));
    for (const [x, z] of chunks) {
      const tile = land.tile(x, z, grade, budget);
      // Edges on whole device pixels, so that neighbours neither overlap nor leave seams.
      const a = camera.toScreen(x * CHUNK_M, z * CHUNK_M);
      const b = camera.toScreen((x + 1) * CHUNK_M, (z + 1) * CHUNK_M);
      const snap = (v) => Math.round(v * this.#ratio) / this.#ratio;
      context.drawImage(tile, snap(a.x), snap(a.y), snap(b.x) - snap(a.x), snap(b.y) - snap(a.y));
    }
  }

  #drawWorldEdge(halfMm) {
    const half = halfMm / 1_000;
    const context = this.#context;
    const { camera } = this;
    const a = camera.toScreen(-half, -half);
    const b = camera.toScreen(half, half);
    if (a.x < 0 && a.y < 0 && b.x > camera.width && b.y > camera.height) return;
    context.fillStyle = 'rgba(6,10,16,0.72)';
    context.beginPath();
    context.rect(0, 0, camera.width, camera.height);
    context.rect(a.x, a.y, b.x - a.x, b.y - a.y);
    context.fill('evenodd');
    context.strokeStyle = 'rgba(255,255,255,0.35)';
    context.setLineDash([10, 8]);
    context.lineWidth = 1.5;
    context.strokeRect(a.x, a.y, b.x - a.x, b.y - a.y);
    context.setLineDash([]);
  }

  /** The building grid near the player, fading out with distance, and the reach. */
  #drawGrid(scene, own) {
    if (!own) return;
    const context = this.#context;
    const { camera } = this;
    const grid = scene.catalogue.gridMm / 1_000;
    // Building reaches one cell further than a hand, measured to the cell's middle.
    const reach = scene.catalogue.reachMm / 1_000 + grid;
    const level = scene.storeyLimit ?? 0;
    const [x, z] = [own.x / 1_000, own.z / 1_000];
    const centre = camera.toScreen(x, z, level);
    const radius = (reach + grid * 2.5) * camera.scale;
    const fade = context.createRadialGradient(centre.x, centre.y, radius * 0.3, centre.x, centre.y, radius);
    fade.addColorStop(0, 'rgba(255,255,255,0.34)');
    fade.addColorStop(1, 'rgba(255,255,255,0)');
    context.strokeStyle = fade;
    context.lineWidth = 1;
    context.beginPath();
    const cells = Math.ceil(reach / grid) + 3;
    const column = Math.floor(x / grid);
    const row = Math.floor(z / grid);
    for (let i = -cells; i <= cells; i += 1) {
      const vertical = camera.toScreen((column + i) * grid, z, level).x;
      const horizontal = camera.toScreen(x, (row + i) * grid, level).y;
      context.moveTo(vertical, centre.y - radius);
      context.lineTo(vertical, centre.y + radius);
      context.moveTo(centre.x - radius, horizontal);
      context.lineTo(centre.x + radius, horizontal);
    }
    context.stroke();
    const foot = camera.toScreen(x, z);
    context.strokeStyle = 'rgba(255,255,255,0.28)';
    context.setLineDash([5, 6]);
    context.beginPath();
    context.arc(foot.x, foot.y, reach * camera.scale, 0, Math.PI * 2);
    context.stroke();
    context.setLineDash([]);
  }

  /** What is in the window: floors and upper parts by storey, and everything that stands on the ground floor. */
  #collect({ view, catalogue, storeyLimit }, own, now) {
    const floors = [];
    const upper = [];
    const standing = [];
    const { x0, z0, x1, z1 } = this.#chunkWindow(MARGIN_M);
    const grid = catalogue.gridMm / 1_000;
    for (let z = z0; z <= z1; z += 1) {
      for (let x = x0; x <= x1; x += 1) {
        for (const entity of view.chunks.get(chunkKey(x, z)) ?? []) {
          const structure = entity.structure;
          if (!structure) {
            if (entity.resource) standing.push({ entity, sort: entity.z / 1_000 });
            continue;
          }
          if (storeyLimit !== null && structure.level > storeyLimit) continue;
          const slot = catalogue.pieces.get(structure.piece)?.slot;
          if (slot === 'floor') {
            (floors[structure.level] ??= []).push(entity);
            continue;
          }
          let sort = entity.z / 1_000;
          if (slot === 'edge') sort += structure.turn === 0 ? -grid / 2 : structure.turn === 2 ? grid / 2 : 0;
          if (structure.level === 0) standing.push({ entity, sort });
          else (upper[structure.level] ??= []).push({ entity, sort });
        }
      }
    }
    const northWest = this.camera.toWorld(0, 0);
    const southEast = this.camera.toWorld(this.camera.width, this.camera.height);
    for (const walker of view.walkers.values()) {
      const pose = walker === view.own ? own : view.poseAt(walker, now);
      const [x, z] = [pose.x / 1_000, pose.z / 1_000];
      if (x < northWest.x - 2 || x > southEast.x + 2 || z < northWest.z - 2 || z > southEast.z + 2) continue;
      standing.push({ walker, pose, sort: z });
    }
    return { floors, upper, standing };
  }

  #drawPicture(picture, x, z, level = 0) {
    const { camera } = this;
    const at = camera.toScreen(x, z, level);
    const half = picture.halfM * camera.scale;
    this.#context.drawImage(picture.canvas, at.x - half, at.y - half, half * 2, half * 2);
  }

  #drawNode(scene, entity, now) {
    const context = this.#context;
    const { camera } = this;
    const look = scene.catalogue.nodes.get(entity.resource.kind)?.look ?? 'rock';
    const depleted = entity.resource.left === 0;
    const picture = this.#sprites.node(look, entity.id, depleted, camera.scale * this.#ratio);
    let x = entity.x / 1_000;
    const z = entity.z / 1_000;
    const shaken = scene.shakes.get(entity.id);
    if (shaken !== undefined) {
      const age = (now - shaken) / 1_000;
      if (age > 0.35) scene.shakes.delete(entity.id);
      else if (!scene.still) x += Math.sin(age * 70) * 0.09 * (1 - age / 0.35);
    }
    if (scene.hover === entity) {
      const foot = camera.toScreen(x, z);
      context.strokeStyle = scene.hoverInReach ? 'rgba(255,255,255,0.95)' : 'rgba(255,196,150,0.85)';
      context.fillStyle = scene.hoverInReach ? 'rgba(255,255,255,0.16)' : 'rgba(255,150,90,0.12)';
      context.lineWidth = 2;
      context.beginPath();
      const radius = camera.scale * (look === 'tree' ? 1.05 : look === 'bush' ? 0.8 : 1.25);
      context.ellipse(foot.x, foot.y, radius, radius * 0.78, 0, 0, Math.PI * 2);
      context.fill();
      context.stroke();
    }
    context.globalAlpha = depleted ? 0.8 : 1;
    this.#drawPicture(picture, x, z);
    context.globalAlpha = 1;
  }

  #drawPiece(scene, entity, now, own = null) {
    const context = this.#context;
    const { structure } = entity;
    const { catalogue } = scene;
    const piece = catalogue.pieces.get(structure.piece) ?? { key: 'unknown', slot: 'inside' };
    const grid = catalogue.gridMm / 1_000;
    const picture = this.#sprites.piece(piece, structure.turn, grid, entity.id, this.camera.scale * this.#ratio);
    const [x, z] = [entity.x / 1_000, entity.z / 1_000];
    // A roof over the own player becomes clear, unless one is building up there.
    if (own && structure.level > 0 && scene.storeyLimit === null) {
      const distance = Math.hypot(x - own.x / 1_000, z - own.z / 1_000);
      context.globalAlpha = Math.min(1, Math.max(0.22, (distance - 3) / 4));
    }
    this.#drawPicture(picture, x, z, structure.level);
    if (structure.level > 0 && piece.slot === 'floor') {
      const at = this.camera.toScreen(x, z, structure.level);
      const side = grid * this.camera.scale;
      context.fillStyle = `rgba(255,244,224,${Math.min(0.22, structure.level * 0.07)})`;
      context.fillRect(at.x - side / 2, at.y - side / 2, side, side);
    }
    if (/fire/.test(piece.key)) {
      const at = this.camera.toScreen(x, z, structure.level);
      context.save();
      context.translate(at.x, at.y);
      context.scale(this.camera.scale, this.camera.scale);
      paintFlames(context, scene.still ? 0 : now / 1_000, entity.id % 17);
      context.restore();
    }
    if (scene.hover === entity) {
      const at = this.camera.toScreen(x, z, structure.level);
      this.#markPlace(piece.slot, structure.turn, at, grid * this.camera.scale, 'rgba(255,92,82,0.5)', 'rgba(255,150,140,0.95)');
    }
    context.globalAlpha = 1;
  }

  #drawStoreyShadow(scene, floors, level) {
    if (floors.length === 0) return;
    const context = this.#context;
    const side = (scene.catalogue.gridMm / 1_000) * this.camera.scale;
    context.fillStyle = 'rgba(6,10,18,0.2)';
    for (const entity of floors) {
      const at = this.camera.toScreen(entity.x / 1_000 + 0.4, entity.z / 1_000 + 0.35, level - 0.6);
      context.fillRect(at.x - side / 2, at.y - side / 2, side, side);
    }
  }

  /** Tints the place that a piece fills in the cell around `at`. */
  #markPlace(slot, turn, at, side, fill, stroke) {
    const context = this.#context;
    const half = side / 2;
    const thick = side * 0.16;
    context.fillStyle = fill;
    context.strokeStyle = stroke;
    context.lineWidth = 2;
    context.beginPath();
    if (slot === 'edge') {
      if (turn === 0) context.rect(at.x - half, at.y - half - thick / 2, side, thick);
      else if (turn === 1) context.rect(at.x + half - thick / 2, at.y - half, thick, side);
      else if (turn === 2) context.rect(at.x - half, at.y + half - thick / 2, side, thick);
      else context.rect(at.x - half - thick / 2, at.y - half, thick, side);
    } else if (slot === 'inside') {
      context.ellipse(at.x, at.y, half * 0.66, half * 0.58, 0, 0, Math.PI * 2);
    } else {
      context.rect(at.x - half + 1, at.y - half + 1, side - 2, side - 2);
    }
    context.fill();
    context.stroke();
  }

  #drawGhost({ ghost, catalogue }) {
    const context = this.#context;
    const grid = catalogue.gridMm / 1_000;
    const x = (ghost.column + 0.5) * grid;
    const z = (ghost.row + 0.5) * grid;
    const at = this.camera.toScreen(x, z, ghost.level);
    const side = grid * this.camera.scale;
    const picture = this.#sprites.piece(ghost.piece, ghost.turn, grid, 0, this.camera.scale * this.#ratio);
    if (ghost.level > 0) {
      // A thread to the ground shows which cell is meant.
      const foot = this.camera.toScreen(x, z);
      context.strokeStyle = 'rgba(255,255,255,0.5)';
      context.lineWidth = 1;
      context.setLineDash([3, 4]);
      context.strokeRect(foot.x - side / 2, foot.y - side / 2, side, side);
      context.setLineDash([]);
    }
    context.globalAlpha = 0.72;
    this.#drawPicture(picture, x, z, ghost.level);
    context.globalAlpha = 1;
    const good = !ghost.objection;
    const fill = good ? 'rgba(94,224,140,0.3)' : 'rgba(255,86,76,0.34)';
    const stroke = good ? 'rgba(150,255,186,0.95)' : 'rgba(255,140,130,0.95)';
    this.#markPlace(ghost.piece.slot, ghost.turn, at, side, fill, stroke);
  }

  #drawWalker(scene, entity, pose, seconds, now) {
    const context = this.#context;
    const { camera } = this;
    const at = camera.toScreen(pose.x / 1_000, pose.z / 1_000);
    const stride = pose.speed > 200 ? (this.#strides.get(entity.id) ?? 0) + seconds * (4 + pose.speed / 700) : 0;
    if (stride) this.#strides.set(entity.id, stride);
    else this.#strides.delete(entity.id);
    context.save();
    context.translate(at.x, at.y);
    context.scale(camera.scale, camera.scale);
    paintPlayer(context, {
      hue: playerHue(entity.id),
      turn: (pose.yaw / 65_536) * Math.PI * 2,
      stride: scene.still ? 0 : stride,
      own: entity === scene.view.own,
      tracked: seenFromAbove(scene.view.trackedAt(entity, now)),
    });
    context.restore();
  }

  #drawName(scene, entity, pose) {
    if (!entity.player?.name || this.camera.scale < 9) return;
    const context = this.#context;
    const at = this.camera.toScreen(pose.x / 1_000, pose.z / 1_000);
    const own = entity === scene.view.own;
    const y = at.y - this.camera.scale * 0.95 - 12;
    context.font = `600 12px ${FONT}`;
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    const width = context.measureText(entity.player.name).width + 16;
    context.fillStyle = 'rgba(12,17,24,0.66)';
    context.beginPath();
    context.roundRect(at.x - width / 2, y - 10, width, 20, 10);
    context.fill();
    if (own) {
      context.strokeStyle = 'rgba(255,255,255,0.4)';
      context.lineWidth = 1;
      context.stroke();
    }
    context.fillStyle = own ? '#ffffff' : `hsl(${playerHue(entity.id)},80%,84%)`;
    context.fillText(entity.player.name, at.x, y + 0.5);
  }

  #drawFloaters({ floaters, still }, now) {
    const context = this.#context;
    context.font = `700 15px ${FONT}`;
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.lineJoin = 'round';
    for (const floater of floaters) {
      const age = (now - floater.born) / 1_400;
      if (age >= 1) continue;
      const at = this.camera.toScreen(floater.x, floater.z);
      const y = at.y - 30 - (still ? 0 : (1 - (1 - age) ** 2) * 34);
      context.globalAlpha = Math.min(1, (1 - age) * 2.2);
      context.strokeStyle = 'rgba(8,12,18,0.8)';
      context.lineWidth = 4;
      context.strokeText(floater.text, at.x, y);
      context.fillStyle = '#fff3c9';
      context.fillText(floater.text, at.x, y);
    }
    context.globalAlpha = 1;
  }

  /** The resource node under a point of the screen, or null; of several, the one whose foot is nearest. */
  nodeAt({ view, catalogue }, screenX, screenY) {
    const point = this.camera.toWorld(screenX, screenY);
    let best = null;
    let bestDistance = Infinity;
    this.#near(view, point, (entity) => {
      if (!entity.resource || entity.structure) return;
      const look = catalogue.nodes.get(entity.resource.kind)?.look;
      const dx = point.x - entity.x / 1_000;
      const dz = point.z - entity.z / 1_000;
      // Trees are clicked on their crown too.
      const tall = look === 'tree' && entity.resource.left > 0 ? 1.7 : 0.3;
      const beside = Math.hypot(dx, dz < -tall ? dz + tall : Math.max(0, dz));
      const distance = Math.hypot(dx, dz);
      if (beside < 0.95 && distance < bestDistance) {
        best = entity;
        bestDistance = distance;
      }
    });
    return best;
  }

  /** The structure piece under a point of the screen, or null: of the highest shown storey; edges before insides before floors. */
  pieceAt({ view, catalogue, storeyLimit }, screenX, screenY) {
    const grid = catalogue.gridMm / 1_000;
    let best = null;
    let bestRank = -1;
    this.#near(view, this.camera.toWorld(screenX, screenY), (entity) => {
      const { structure } = entity;
      if (!structure || (storeyLimit !== null && structure.level > storeyLimit)) return;
      const point = this.camera.toWorld(screenX, screenY, structure.level);
      const u = (point.x - entity.x / 1_000) / grid;
      const v = (point.z - entity.z / 1_000) / grid;
      const slot = catalogue.pieces.get(structure.piece)?.slot ?? 'inside';
      let distance = 0;
      if (slot === 'edge') {
        const [across, along] = structure.turn % 2 === 0 ? [v, u] : [u, v];
        const side = structure.turn === 0 || structure.turn === 3 ? -0.5 : 0.5;
        distance = Math.abs(across - side);
        // A wall's face shows below its top, which is drawn further up the screen.
        const raised = structure.turn % 2 === 0 ? Math.abs(across + STOREY_LIFT_M / grid - side) : distance;
        distance = Math.min(distance, raised);
        if (distance > 0.16 || Math.abs(along) > 0.5) return;
      } else if (slot === 'inside') {
        distance = Math.hypot(u, v);
        if (distance > 0.34) return;
      } else if (Math.abs(u) > 0.5 || Math.abs(v) > 0.5) {
        return;
      }
      const rank = structure.level * 4 + { floor: 0, inside: 1, edge: 2 }[slot] + (0.9 - distance);
      if (rank > bestRank) {
        best = entity;
        bestRank = rank;
      }
    });
    return best;
  }

  /** Another player under a point of the screen, or null. */
  walkerAt({ view }, screenX, screenY, now) {
    for (const walker of view.walkers.values()) {
      const pose = view.poseAt(walker, now);
      const at = this.camera.toScreen(pose.x / 1_000, pose.z / 1_000);
      if (Math.hypot(screenX - at.x, screenY - at.y + this.camera.scale * 0.25) < this.camera.scale * 0.7) return walker;
    }
    return null;
  }

  #near(view, point, visit) {
    const reach = 8;
    for (let z = Math.floor((point.z - reach) / CHUNK_M); z <= Math.floor((point.z + reach) / CHUNK_M); z += 1) {
      for (let x = Math.floor((point.x - reach) / CHUNK_M); x <= Math.floor((point.x + reach) / CHUNK_M); x += 1) {
        for (const entity of view.chunks.get(chunkKey(x, z)) ?? []) visit(entity);
      }
    }
  }
}

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';

const HEAD = POSE_PARTS.indexOf('head');
const HANDS = [POSE_PARTS.indexOf('left_hand'), POSE_PARTS.indexOf('right_hand')];

/** Head and hands for `paintPlayer`: `{head, hands}`, each part `{x, y, z}` in metres from the feet and where it points. */
function seenFromAbove(parts) {
  if (!parts) return null;
  const seen = (part) => part && { x: part.place[0], y: part.place[1], z: part.place[2], ...pointing(part.turn) };
  return { head: seen(parts[HEAD]), hands: HANDS.map((hand) => seen(parts[hand])) };
}

const MINIMAP_RADIUS_M = 120;
const MINIMAP_COLOURS = { tree: '#1d4a2c', rock: '#d9d6cf', ore: '#f0a04b', bush: '#9bd06a' };

/** The small map in the corner: land, nodes, structures and players around the own one. */
export function drawMinimap(canvas, { view, land, catalogue, worldHalfMm }, now) {
  const ratio = Math.min(2.5, window.devicePixelRatio || 1);
  const side = canvas.clientWidth;
  if (!side || !view.own?.samples.length) return;
  if (canvas.width !== Math.round(side * ratio)) canvas.width = canvas.height = Math.round(side * ratio);
  const own = view.poseAt(view.own, now);
  const [ownX, ownZ] = [own.x / 1_000, own.z / 1_000];
  const scale = side / (MINIMAP_RADIUS_M * 2);
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const toX = (x) => (x - ownX) * scale + side / 2;
  const toZ = (z) => (z - ownZ) * scale + side / 2;
  const first = (v) => Math.floor((v - MINIMAP_RADIUS_M) / CHUNK_M);
  const last = (v) => Math.floor((v + MINIMAP_RADIUS_M) / CHUNK_M);
  const grid = (catalogue.gridMm / 1_000) * scale;
  const things = [];
  for (let z = first(ownZ); z <= last(ownZ); z += 1) {
    for (let x = first(ownX); x <= last(ownX); x += 1) {
      const tile = land.tile(x, z, 'mini', { until: 0 });
      context.drawImage(tile, toX(x * CHUNK_M), toZ(z * CHUNK_M), CHUNK_M * scale + 0.6, CHUNK_M * scale + 0.6);
      for (const entity of view.chunks.get(chunkKey(x, z)) ?? []) things.push(entity);
    }
  }
  for (const entity of things) {
    const x = toX(entity.x / 1_000);
    const z = toZ(entity.z / 1_000);
    if (entity.structure) {
      context.fillStyle = '#ffd9a0';
      context.fillRect(x - grid / 2, z - grid / 2, Math.max(1.5, grid), Math.max(1.5, grid));
    } else if (entity.resource && entity.resource.left > 0) {
      context.fillStyle = MINIMAP_COLOURS[catalogue.nodes.get(entity.resource.kind)?.look] ?? '#ddd';
      context.fillRect(x - 0.8, z - 0.8, 1.6, 1.6);
    }
  }
  const half = worldHalfMm / 1_000;
  context.strokeStyle = 'rgba(255,255,255,0.5)';
  context.lineWidth = 1;
  context.strokeRect(toX(-half), toZ(-half), half * 2 * scale, half * 2 * scale);
  for (const walker of view.walkers.values()) {
    if (walker === view.own || !walker.samples.length) continue;
    const pose = view.poseAt(walker, now);
    context.fillStyle = `hsl(${playerHue(walker.id)},85%,70%)`;
    context.strokeStyle = 'rgba(0,0,0,0.6)';
    context.beginPath();
    context.arc(toX(pose.x / 1_000), toZ(pose.z / 1_000), 2.6, 0, Math.PI * 2);
    context.fill();
    context.stroke();
  }
  context.save();
  context.translate(side / 2, side / 2);
  context.rotate((own.yaw / 65_536) * Math.PI * 2);
  context.fillStyle = '#ffffff';
  context.strokeStyle = 'rgba(0,0,0,0.7)';
  context.beginPath();
  context.moveTo(0, -6);
  context.lineTo(4.2, 5);
  context.lineTo(0, 2.8);
  context.lineTo(-4.2, 5);
  context.closePath();
  context.fill();
  context.stroke();
  context.restore();
}
