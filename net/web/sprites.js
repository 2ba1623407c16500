// Pictures of things, drawn once as vectors and kept as small canvases in a few sizes.
//
// Painters work in metres with the thing's foot at the origin, x to the east and y to the south (down the screen). Light
// comes from the north-west, so shadows fall to the south-east. The world is seen from above and a little from the south:
// what is high moves up the screen.

/** A small repeatable random number generator (mulberry32). */
function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** Blends two colours given as [r, g, b]. */
function blend(a, b, t) {
  const part = (i) => Math.round(a[i] + (b[i] - a[i]) * t);
  return `rgb(${part(0)},${part(1)},${part(2)})`;
}

function fillPolygon(context, points, colour) {
  context.fillStyle = colour;
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.fill();
}

function disc(context, x, y, radius, colour, flat = 1) {
  context.fillStyle = colour;
  context.beginPath();
  context.ellipse(x, y, radius, radius * flat, 0, 0, Math.PI * 2);
  context.fill();
}

function softShadow(context, x, y, radiusX, radiusY, strength = 0.42) {
  context.save();
  context.translate(x, y);
  context.scale(radiusX, radiusY);
  const gradient = context.createRadialGradient(0, 0, 0.25, 0, 0, 1);
  gradient.addColorStop(0, `rgba(8,16,24,${strength})`);
  gradient.addColorStop(0.6, `rgba(8,16,24,${strength * 0.55})`);
  gradient.addColorStop(1, 'rgba(8,16,24,0)');
  context.fillStyle = gradient;
  context.fillRect(-1, -1, 2, 2);
  context.restore();
}

// ---- Resource nodes -------------------------------------------------------------------------------------------------

const CROWNS = [
  [[22, 56, 42], [112, 158, 88]],
  [[18, 52, 46], [96, 148, 92]],
  [[30, 60, 38], [128, 164, 84]],
];

function paintTree(context, random, depleted) {
  if (depleted) {
    paintStump(context, random);
    return;
  }
  const radius = 1.2 + random() * 0.45;
  const [dark, light] = CROWNS[Math.floor(random() * CROWNS.length)];
  softShadow(context, 0.55, 0.35, radius * 1.25, radius * 0.95, 0.5);
  context.fillStyle = '#3d2b1d';
  context.fillRect(-0.14, -0.5, 0.28, 0.62);
  disc(context, 0, 0.12, 0.17, '#3d2b1d', 0.6);
  const layers = 5;
  for (let layer = 0; layer < layers; layer += 1) {
    const t = layer / (layers - 1);
    const r = radius * (1 - t * 0.8);
    const y = -0.3 - layer * 0.34;
    const teeth = Math.round(15 - t * 6);
    const twist = random() * 6;
    const ragged = Array.from({ length: teeth * 2 }, (_, i) => (i % 2 ? 0.78 : 0.92 + random() * 0.14));
    const outline = (scale, dx, dy) =>
      ragged.map((length, i) => {
        const angle = twist + (i / ragged.length) * Math.PI * 2;
        return [dx + Math.cos(angle) * r * length * scale, dy + Math.sin(angle) * r * length * scale * 0.86];
      });
    fillPolygon(context, outline(1.03, 0.07, y + 0.12), 'rgba(6,20,18,0.35)');
    fillPolygon(context, outline(1, 0, y), blend(dark, light, 0.06 + t * 0.68));
    fillPolygon(context, outline(0.74, -r * 0.16, y - r * 0.13), blend(dark, light, 0.18 + t * 0.68));
    fillPolygon(context, outline(0.4, -r * 0.3, y - r * 0.22), blend(dark, light, 0.32 + t * 0.68));
  }
}

function paintStump(context, random) {
  softShadow(context, 0.2, 0.16, 0.7, 0.5, 0.35);
  context.fillStyle = '#6d543c';
  context.beginPath();
  context.ellipse(0, 0.08, 0.38, 0.3, 0, 0, Math.PI * 2);
  context.fill();
  disc(context, 0, -0.06, 0.37, '#c9ab80', 0.76);
  context.strokeStyle = '#a5855c';
  context.lineWidth = 0.03;
  for (const ring of [0.12, 0.2, 0.28]) {
    context.beginPath();
    context.ellipse(0.02, -0.06, ring, ring * 0.76, 0, 0, Math.PI * 2);
    context.stroke();
  }
  for (let i = 0; i < 5; i += 1) disc(context, (random() - 0.5) * 1.6, (random() - 0.3) * 0.9, 0.05, '#d8c199aa', 0.7);
}

/** A stone with an outer and an inner outline; the faces between them are lit by where they look. */
function paintFacets(context, random, { radius, dark, light, glints = null }) {
  const corners = 8;
  const outer = [];
  const inner = [];
  for (let i = 0; i < corners; i += 1) {
    const angle = (i / corners) * Math.PI * 2 + (random() - 0.5) * 0.5;
    const length = radius * (0.84 + random() * 0.26);
    outer.push([Math.cos(angle) * length, Math.sin(angle) * length * 0.84]);
    const top = length * (0.42 + random() * 0.18);
    inner.push([Math.cos(angle) * top - radius * 0.1, Math.sin(angle) * top * 0.8 - radius * 0.36]);
  }
  softShadow(context, radius * 0.34, radius * 0.3, radius * 1.4, radius * 1.12, 0.52);
  for (let i = 0; i < corners; i += 1) {
    const next = (i + 1) % corners;
    const middleX = (outer[i][0] + outer[next][0]) / 2;
    const middleY = (outer[i][1] + outer[next][1]) / 2;
    const lit = (-middleX - middleY * 1.1) / (Math.hypot(middleX, middleY * 1.1) * 1.42);
    const colour = blend(dark, light, 0.42 + lit * 0.36 + (random() - 0.5) * 0.08);
    fillPolygon(context, [outer[i], outer[next], inner[next], inner[i]], colour);
    context.strokeStyle = colour;
    context.lineWidth = 0.02;
    context.stroke();
  }
  fillPolygon(context, inner, blend(dark, light, 0.84));
  fillPolygon(context, [inner[5], inner[6], inner[7], inner[4]], blend(dark, light, 0.95));
  if (!glints) return;
  for (let i = 0; i < 7; i += 1) {
    const angle = random() * Math.PI * 2;
    const length = random() * radius * 0.7;
    const x = Math.cos(angle) * length;
    const y = Math.sin(angle) * length * 0.75 - radius * 0.2;
    const size = 0.07 + random() * 0.1;
    fillPolygon(context, [[x, y - size * 1.5], [x + size, y], [x, y + size * 1.2], [x - size, y]], glints[0]);
    fillPolygon(context, [[x, y - size * 1.5], [x, y], [x - size, y]], glints[1]);
    disc(context, x - size * 0.3, y - size * 0.5, size * 0.22, '#fff6e4');
  }
}

function paintRubble(context, random, dark, light) {
  softShadow(context, 0.15, 0.12, 0.95, 0.65, 0.28);
  for (let i = 0; i < 7; i += 1) {
    const angle = random() * Math.PI * 2;
    const length = random() * 0.65;
    const x = Math.cos(angle) * length;
    const y = Math.sin(angle) * length * 0.65;
    const radius = 0.08 + random() * 0.13;
    const corners = Array.from({ length: 6 }, (_, c) => {
      const turn = (c / 6) * Math.PI * 2 + random() * 0.4;
      return [x + Math.cos(turn) * radius, y + Math.sin(turn) * radius * 0.8];
    });
    fillPolygon(context, corners.map(([a, b]) => [a + 0.04, b + 0.05]), 'rgba(10,14,20,0.3)');
    fillPolygon(context, corners, blend(dark, light, 0.4 + random() * 0.35));
    fillPolygon(context, corners.slice(2, 6), blend(dark, light, 0.8));
  }
}

const STONE = [[84, 84, 90], [206, 203, 196]];
const ORE = [[66, 58, 60], [176, 160, 152]];

function paintRock(context, random, depleted) {
  if (depleted) paintRubble(context, random, [120, 118, 116], [214, 211, 205]);
  else {
    const radius = 0.72 + random() * 0.28;
    context.save();
    context.translate(radius * 0.8, radius * 0.25);
    paintFacets(context, random, { radius: radius * 0.42, dark: STONE[0], light: STONE[1] });
    context.restore();
    paintFacets(context, random, { radius, dark: STONE[0], light: STONE[1] });
  }
}

function paintOre(context, random, depleted) {
  if (depleted) paintRubble(context, random, [110, 92, 84], [198, 176, 160]);
  else {
    const radius = 0.85 + random() * 0.25;
    paintFacets(context, random, { radius, dark: ORE[0], light: ORE[1], glints: ['#b4562d', '#e99a4f'] });
  }
}

function paintBush(context, random, depleted) {
  if (depleted) {
    softShadow(context, 0.1, 0.08, 0.6, 0.4, 0.25);
    context.lineWidth = 0.05;
    context.lineCap = 'round';
    for (let i = 0; i < 9; i += 1) {
      context.strokeStyle = i % 2 ? '#a08c62' : '#8a7650';
      context.beginPath();
      context.moveTo((random() - 0.5) * 0.2, 0.05);
      context.lineTo((random() - 0.5) * 0.9, -random() * 0.55 + 0.1);
      context.stroke();
    }
    return;
  }
  softShadow(context, 0.28, 0.22, 0.95, 0.72, 0.42);
  const blobs = Array.from({ length: 11 }, () => {
    const angle = random() * Math.PI * 2;
    const length = Math.sqrt(random()) * 0.5;
    return [Math.cos(angle) * length, Math.sin(angle) * length * 0.7 - 0.15, 0.22 + random() * 0.14];
  }).sort((a, b) => a[1] - b[1]);
  for (const [x, y, r] of blobs) disc(context, x + 0.05, y + 0.07, r, '#24421fcc');
  for (const [x, y, r] of blobs) {
    disc(context, x, y, r, '#487a38');
    disc(context, x - r * 0.22, y - r * 0.24, r * 0.68, '#6a9d48');
    disc(context, x - r * 0.36, y - r * 0.4, r * 0.34, '#93bf62');
  }
  for (let i = 0; i < 8; i += 1) {
    const [x, y, r] = blobs[Math.floor(random() * blobs.length)];
    const u = x + (random() - 0.6) * r;
    const v = y + (random() - 0.6) * r;
    disc(context, u, v, 0.06, '#8fb2f2');
    disc(context, u - 0.015, v - 0.015, 0.025, '#eef4ff');
  }
}

const NODE_PAINTERS = { tree: paintTree, rock: paintRock, ore: paintOre, bush: paintBush };

// ---- Structures -----------------------------------------------------------------------------------------------------

/** What a piece is made of, guessed from its word: content names things, clients choose how they look. */
function materialOf(key) {
  return /stone|brick|rock/.test(key) ? 'stone' : 'wood';
}

function paintFloor(context, random, { key, side }) {
  const half = side / 2;
  if (materialOf(key) === 'stone') {
    context.fillStyle = '#6f6d69';
    context.fillRect(-half, -half, side, side);
    const rows = 4;
    for (let row = 0; row < rows; row += 1) {
      const shift = row % 2 ? 0.5 : 0;
      for (let column = -1; column < 3; column += 1) {
        const x = Math.max(-half, -half + (column + shift) * (side / 2.5) + 0.02);
        const right = Math.min(half, -half + (column + 1 + shift) * (side / 2.5) - 0.02);
        if (right <= x) continue;
        const y = -half + (row * side) / rows + 0.02;
        const height = side / rows - 0.04;
        const tone = 142 + random() * 34;
        context.fillStyle = `rgb(${tone},${tone - 3},${tone - 9})`;
        context.fillRect(x, y, right - x, height);
        context.fillStyle = 'rgba(255,255,255,0.2)';
        context.fillRect(x, y, right - x, 0.03);
        context.fillStyle = 'rgba(0,0,0,0.16)';
        context.fillRect(x, y + height - 0.03, right - x, 0.03);
      }
    }
  } else {
    const planks = 5;
    const height = side / planks;
    context.fillStyle = '#5a4029';
    context.fillRect(-half, -half, side, side);
    for (let plank = 0; plank < planks; plank += 1) {
      const y = -half + plank * height;
      const t = random();
      context.fillStyle = blend([150, 108, 66], [190, 146, 96], t);
      context.fillRect(-half, y + 0.012, side, height - 0.024);
      context.fillStyle = 'rgba(255,236,200,0.2)';
      context.fillRect(-half, y + 0.012, side, 0.03);
      context.strokeStyle = 'rgba(80,50,24,0.25)';
      context.lineWidth = 0.015;
      for (let line = 0; line < 2; line += 1) {
        const v = y + height * (0.3 + random() * 0.5);
        context.beginPath();
        context.moveTo(-half + random() * 0.4, v);
        context.bezierCurveTo(-half + side * 0.3, v - 0.04, half - side * 0.4, v + 0.05, half - random() * 0.5, v);
        context.stroke();
      }
      const joint = -half + side * (0.2 + random() * 0.6);
      context.fillStyle = 'rgba(60,38,18,0.7)';
      context.fillRect(joint, y + 0.012, 0.018, height - 0.024);
      disc(context, joint - 0.07, y + height / 2, 0.022, '#4a3219');
      disc(context, joint + 0.09, y + height / 2, 0.022, '#4a3219');
    }
  }
  context.strokeStyle = 'rgba(30,20,12,0.5)';
  context.lineWidth = 0.03;
  context.strokeRect(-half + 0.015, -half + 0.015, side - 0.03, side - 0.03);
}

/** Colours of the three faces of an edge piece. */
const EDGE_FACES = {
  wood: { top: '#c39a66', light: '#dcb986', front: '#7b5636', seam: 'rgba(62,38,18,0.55)' },
  stone: { top: '#b9b6ae', light: '#d6d3cb', front: '#77746f', seam: 'rgba(40,40,42,0.5)' },
};

/** An edge piece on the north edge (turn 0) of its cell, or turned clockwise by quarters. */
function paintEdge(context, random, { key, turn, side }) {
  const faces = EDGE_FACES[materialOf(key)];
  const half = side / 2;
  const thick = 0.26;
  const rise = 0.5; // how far the top of the wall moves up the screen
  const alongX = turn % 2 === 0;
  const lineX = turn === 1 ? half : turn === 3 ? -half : 0;
  const lineY = turn === 0 ? -half : turn === 2 ? half : 0;
  const box = (from, to) => {
    const x = alongX ? from : lineX - thick / 2;
    const y = alongX ? lineY - thick / 2 : from;
    const width = alongX ? to - from : thick;
    const depth = alongX ? thick : to - from;
    fillPolygon(
      context,
      [[x, y + depth], [x + width, y + depth], [x + width + 0.42, y + depth + 0.3], [x + width + 0.42, y + 0.3], [x + width, y]],
      'rgba(8,12,20,0.26)',
    );
    context.fillStyle = faces.front;
    context.fillRect(x, y + depth - rise, width, rise);
    context.fillStyle = faces.seam;
    const seams = Math.max(1, Math.round(width / 0.34));
    for (let seam = 1; seam < seams; seam += 1) {
      context.fillRect(x + (width * seam) / seams, y + depth - rise, 0.02, rise);
    }
    context.fillStyle = faces.top;
    context.fillRect(x, y - rise, width, depth);
    context.fillStyle = faces.light;
    context.fillRect(x, y - rise, width, 0.05);
    context.fillRect(x, y - rise, 0.05, depth);
    context.fillStyle = faces.seam;
    const marks = Math.max(1, Math.round((to - from) / 0.5));
    for (let mark = 1; mark < marks; mark += 1) {
      const place = ((to - from) * mark) / marks + (random() - 0.5) * 0.06;
      if (alongX) context.fillRect(x + place, y - rise, 0.02, depth);
      else context.fillRect(x, y - rise + place, width, 0.02);
    }
  };
  if (/door|gate/.test(key)) {
    const post = side * 0.24;
    box(-half, -half + post);
    // The threshold shows that one can walk through.
    context.fillStyle = 'rgba(226,190,132,0.65)';
    if (alongX) context.fillRect(-half + post, lineY - 0.07, side - post * 2, 0.14);
    else context.fillRect(lineX - 0.07, -half + post, 0.14, side - post * 2);
    box(half - post, half);
  } else {
    box(-half, half);
  }
}

function paintInside(context, random, { key }) {
  if (/fire/.test(key)) {
    softShadow(context, 0.08, 0.06, 0.75, 0.6, 0.4);
    disc(context, 0, 0, 0.5, '#2c2522', 0.84);
    for (let i = 0; i < 9; i += 1) {
      const angle = (i / 9) * Math.PI * 2;
      const x = Math.cos(angle) * 0.52;
      const y = Math.sin(angle) * 0.43;
      disc(context, x + 0.03, y + 0.04, 0.14, '#1d1c1e88', 0.85);
      disc(context, x, y, 0.135, blend([104, 102, 102], [150, 147, 142], random()), 0.85);
      disc(context, x - 0.035, y - 0.035, 0.07, '#bdb9b2', 0.85);
    }
    context.lineCap = 'round';
    for (let i = 0; i < 4; i += 1) {
      const angle = i * 0.8 + 0.3;
      context.strokeStyle = i % 2 ? '#5f4026' : '#4b311c';
      context.lineWidth = 0.11;
      context.beginPath();
      context.moveTo(Math.cos(angle) * 0.32, Math.sin(angle) * 0.26);
      context.lineTo(-Math.cos(angle) * 0.32, -Math.sin(angle) * 0.26);
      context.stroke();
    }
    return;
  }
  softShadow(context, 0.2, 0.16, 0.8, 0.65, 0.45);
  context.fillStyle = '#7b5636';
  context.fillRect(-0.45, -0.35, 0.9, 0.75);
  context.fillStyle = '#b98f5e';
  context.fillRect(-0.45, -0.6, 0.9, 0.7);
  context.strokeStyle = '#5a3f26';
  context.lineWidth = 0.05;
  context.strokeRect(-0.42, -0.57, 0.84, 0.64);
}

const SLOT_PAINTERS = { floor: paintFloor, edge: paintEdge, inside: paintInside };

// ---- The store of pictures ------------------------------------------------------------------------------------------

const VARIANTS = 8;

/** Keeps pictures by name and size. */
export class Sprites {
  #pictures = new Map();

  /** A resource node: `look` as in the catalogue; `id` picks one of several shapes. */
  node(look, id, depleted, pixelsPerMetre) {
    const painter = NODE_PAINTERS[look] ?? paintRock;
    const variant = id % VARIANTS;
    const name = `${look}/${variant}/${depleted}`;
    return this.#picture(name, look === 'tree' ? 3.2 : 2, pixelsPerMetre, (context) => {
      painter(context, seeded(variant * 7_919 + look.length * 31 + 5), depleted);
    });
  }

  /** A structure piece of the catalogue, in a grid of cells with `side` metres. */
  piece(piece, turn, side, id, pixelsPerMetre) {
    const variant = id % 4;
    const shownTurn = piece.slot === 'edge' ? turn : 0;
    const name = `${piece.key}/${shownTurn}/${variant}`;
    return this.#picture(name, side / 2 + 0.9, pixelsPerMetre, (context) => {
      const painter = SLOT_PAINTERS[piece.slot] ?? paintInside;
      painter(context, seeded(variant * 104_729 + 3), { key: piece.key, turn: shownTurn, side });
    });
  }

  /** Sizes are steps of the square root of two, so zooming repaints seldom and scales little. */
  #picture(name, reachM, pixelsPerMetre, paint) {
    const step = Math.min(14, Math.ceil(Math.log2(Math.max(4, pixelsPerMetre)) * 2));
    const key = `${name}@${step}`;
    let picture = this.#pictures.get(key);
    if (!picture) {
      const scale = 2 ** (step / 2);
      const canvas = document.createElement('canvas');
      canvas.width = canvas.height = Math.ceil(reachM * 2 * scale);
      const context = canvas.getContext('2d');
      context.translate(canvas.width / 2, canvas.height / 2);
      context.scale(scale, scale);
      paint(context);
      picture = { canvas, halfM: canvas.width / 2 / scale };
      this.#pictures.set(key, picture);
      if (this.#pictures.size > 1_500) this.#pictures.delete(this.#pictures.keys().next().value);
    }
    return picture;
  }
}

// ---- Things that move -----------------------------------------------------------------------------------------------

/** A colour of its own for each player. */
export function playerHue(id) {
  return (id * 137.508) % 360;
}

/** A player seen from above; `context` is in metres at the foot, `turn` is in radians clockwise from north. */
export function paintPlayer(context, { hue, turn, stride, own, tracked = null }) {
  softShadow(context, 0.2, 0.17, 0.72, 0.56, 0.5);
  if (own) {
    context.strokeStyle = 'rgba(255,255,255,0.9)';
    context.lineWidth = 0.06;
    context.beginPath();
    context.ellipse(0, 0, 0.72, 0.62, 0, 0, Math.PI * 2);
    context.stroke();
    context.strokeStyle = `hsla(${hue},90%,70%,0.55)`;
    context.lineWidth = 0.14;
    context.beginPath();
    context.ellipse(0, 0, 0.82, 0.71, 0, 0, Math.PI * 2);
    context.stroke();
  }
  context.save();
  context.rotate(turn);
  const swing = Math.sin(stride) * 0.24;
  disc(context, -0.16, swing, 0.13, '#2a2f3a', 1.35);
  disc(context, 0.16, -swing, 0.13, '#2a2f3a', 1.35);
  context.restore();
  context.save();
  context.translate(0, -0.22);
  context.rotate(turn);
  if (!tracked) {
    disc(context, -0.4, -swing * 0.7, 0.13, '#e3b98f');
    disc(context, 0.4, swing * 0.7, 0.13, '#e3b98f');
  }
  context.fillStyle = `hsl(${hue},46%,34%)`;
  context.beginPath();
  context.ellipse(0, 0.02, 0.46, 0.29, 0, 0, Math.PI * 2);
  context.fill();
  context.fillStyle = `hsl(${hue},52%,52%)`;
  context.beginPath();
  context.ellipse(0, 0, 0.4, 0.23, 0, 0, Math.PI * 2);
  context.fill();
  context.restore();
  const place = ({ x, y, z }) => [
    x * Math.cos(turn) - z * Math.sin(turn),
    x * Math.sin(turn) + z * Math.cos(turn) - y * LIFT_PER_M,
  ];
  // Hands above the head are in front of it for who looks from above.
  const hands = tracked ? tracked.hands.filter(Boolean) : [];
  const low = hands.filter((hand) => hand.y < tracked.head.y);
  for (const hand of low) paintHand(context, place(hand), turn + hand.angle, hand.reach);
  if (tracked) paintHead(context, place(tracked.head), turn + tracked.head.angle, tracked.head.reach);
  else paintHead(context, [0, -0.36], turn, 1);
  for (const hand of hands) {
    if (!low.includes(hand)) paintHand(context, place(hand), turn + hand.angle, hand.reach);
  }
}

/** A metre of height is drawn so much further up: as heads at 1.65 m are. */
const LIFT_PER_M = 0.36 / 1.65;

/** `reach`: how far it looks along the ground, 1, or up or down, 0. */
function paintHead(context, [x, y], angle, reach) {
  context.save();
  context.translate(x, y);
  context.rotate(angle);
  disc(context, 0, 0, 0.25, '#3b2a1e');
  context.fillStyle = '#efc9a0';
  context.beginPath();
  context.arc(0, -0.05, 0.215, Math.PI, Math.PI * 2);
  context.ellipse(0, -0.05, 0.215, 0.1, 0, 0, Math.PI);
  context.fill();
  fillPolygon(context, [[-0.06, -0.25], [0.06, -0.25], [0, -0.25 - 0.11 * reach]], '#e0b187');
  context.restore();
}

/** A hand in a glove, with the way that it points. */
function paintHand(context, [x, y], angle, reach) {
  context.save();
  context.translate(x, y);
  context.rotate(angle);
  context.fillStyle = '#c98f5f';
  context.beginPath();
  context.roundRect(-0.05, -0.1 - 0.13 * reach, 0.1, 0.1 + 0.13 * reach, 0.05);
  context.fill();
  disc(context, 0, 0, 0.12, '#e3b98f');
  context.restore();
}

/** The moving part of a campfire; `time` in seconds, 0 for a still one; `glow` lights the ground around it. */
export function paintFlames(context, time, seed, glow = true) {
  const flicker = 0.9 + Math.sin(time * 9 + seed) * 0.06 + Math.sin(time * 23 + seed * 3) * 0.05;
  if (glow) {
    context.save();
    context.globalCompositeOperation = 'lighter';
    const light = context.createRadialGradient(0, -0.1, 0.1, 0, -0.1, 3.2 * flicker);
    light.addColorStop(0, 'rgba(255,176,80,0.5)');
    light.addColorStop(0.3, 'rgba(255,130,50,0.18)');
    light.addColorStop(1, 'rgba(255,110,40,0)');
    context.fillStyle = light;
    context.fillRect(-3.4, -3.4, 6.8, 6.8);
    context.restore();
  }
  for (const [width, height, colour, phase] of [
    [0.3, 0.95, '#f0652a', 0],
    [0.22, 0.72, '#fb9a35', 2],
    [0.13, 0.45, '#ffe08a', 4],
  ]) {
    const sway = Math.sin(time * 7 + seed + phase) * 0.09;
    const tall = height * flicker;
    context.fillStyle = colour;
    context.beginPath();
    context.moveTo(-width, 0.04);
    context.bezierCurveTo(-width * 1.1, -tall * 0.5, sway - width * 0.2, -tall * 0.6, sway, -tall);
    context.bezierCurveTo(sway + width * 0.3, -tall * 0.55, width * 1.1, -tall * 0.45, width, 0.04);
    context.quadraticCurveTo(0, 0.2, -width, 0.04);
    context.fill();
  }
}

// ---- Item icons -----------------------------------------------------------------------------------------------------

/** Painters in a square from −1 to 1. */
const ITEM_PAINTERS = {
  wood(context) {
    for (const [x, y] of [[-0.3, 0.34], [0.34, 0.4], [0.02, -0.18]]) {
      context.save();
      context.translate(x, y);
      context.rotate(-0.5);
      context.fillStyle = '#6f4b2c';
      context.fillRect(-0.1, -0.26, 0.78, 0.52);
      context.fillStyle = '#8d6339';
      context.fillRect(-0.1, -0.26, 0.78, 0.2);
      disc(context, 0.68, 0, 0.26, '#6f4b2c');
      disc(context, -0.1, 0, 0.26, '#d6b083');
      disc(context, -0.1, 0, 0.15, '#b98d5b');
      disc(context, -0.1, 0, 0.07, '#d6b083');
      context.restore();
    }
  },
  stone(context) {
    context.translate(0, 0.16);
    paintFacets(context, seeded(4), { radius: 0.76, dark: STONE[0], light: STONE[1] });
  },
  iron_ore(context) {
    context.translate(0, 0.16);
    paintFacets(context, seeded(9), { radius: 0.76, dark: ORE[0], light: ORE[1], glints: ['#c2622f', '#f0a65c'] });
  },
  fibre(context) {
    context.lineCap = 'round';
    context.lineWidth = 0.1;
    for (let i = -3; i <= 3; i += 1) {
      context.strokeStyle = i % 2 ? '#8fbf62' : '#6d9d47';
      context.beginPath();
      context.moveTo(i * 0.08, 0.75);
      context.quadraticCurveTo(i * 0.1, 0, i * 0.24, -0.7 + Math.abs(i) * 0.1);
      context.stroke();
    }
    context.strokeStyle = '#cbb27a';
    context.lineWidth = 0.14;
    context.beginPath();
    context.moveTo(-0.32, 0.34);
    context.lineTo(0.32, 0.34);
    context.stroke();
  },
  plank(context) {
    for (const [y, colour] of [[0.42, '#a87c4c'], [0, '#c0935f'], [-0.42, '#d2a873']]) {
      context.save();
      context.transform(1, -0.22, 0, 1, 0, y);
      context.fillStyle = '#6a4928';
      context.fillRect(-0.78, -0.1, 1.56, 0.34);
      context.fillStyle = colour;
      context.fillRect(-0.78, -0.16, 1.56, 0.28);
      context.fillStyle = 'rgba(255,240,210,0.35)';
      context.fillRect(-0.78, -0.16, 1.56, 0.06);
      context.restore();
    }
  },
  rope(context) {
    for (const [radius, width] of [[0.62, 0.24], [0.34, 0.2]]) {
      for (const [colour, scale, dash] of [['#8a6b3a', 1, []], ['#d3b377', 0.78, [0.12, 0.06]]]) {
        context.strokeStyle = colour;
        context.lineWidth = width * scale;
        context.setLineDash(dash);
        context.beginPath();
        context.ellipse(0, 0, radius, radius * 0.82, 0, 0, Math.PI * 2);
        context.stroke();
      }
    }
    context.setLineDash([]);
  },
  brick(context) {
    for (const [x, y] of [[-0.4, 0.4], [0.42, 0.4], [0, -0.2]]) {
      context.fillStyle = '#6e6b68';
      context.fillRect(x - 0.38, y - 0.2, 0.76, 0.5);
      context.fillStyle = '#b5b2ab';
      context.fillRect(x - 0.38, y - 0.28, 0.76, 0.36);
      context.fillStyle = '#d4d1ca';
      context.fillRect(x - 0.38, y - 0.28, 0.76, 0.09);
    }
  },
  campfire_kit(context) {
    context.translate(0, 0.35);
    context.scale(1.25, 1.25);
    context.lineCap = 'round';
    context.lineWidth = 0.16;
    for (const [colour, tilt] of [['#5f4026', 0.3], ['#7b5636', -0.3]]) {
      context.strokeStyle = colour;
      context.beginPath();
      context.moveTo(-0.5, tilt * 0.5);
      context.lineTo(0.5, -tilt * 0.5);
      context.stroke();
    }
    paintFlames(context, 0, 1, false);
  },
};

/** Paints an item into a square canvas; items without a picture get a coloured tile with their initials. */
export function paintItemIcon(canvas, key, name) {
  const ratio = Math.min(3, window.devicePixelRatio || 1);
  const size = 34;
  canvas.width = canvas.height = Math.round(size * ratio);
  const context = canvas.getContext('2d');
  context.translate(canvas.width / 2, canvas.height / 2);
  context.scale(canvas.width / 2.3, canvas.width / 2.3);
  const painter = ITEM_PAINTERS[key];
  if (painter) {
    painter(context);
    return;
  }
  let hash = 0;
  for (const letter of key) hash = (Math.imul(hash, 31) + letter.codePointAt(0)) >>> 0;
  context.fillStyle = `hsl(${hash % 360},45%,45%)`;
  context.beginPath();
  context.roundRect(-0.75, -0.75, 1.5, 1.5, 0.3);
  context.fill();
  context.fillStyle = '#fff';
  context.font = '600 0.8px system-ui, sans-serif';
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  context.fillText(name.slice(0, 2), 0, 0.05);
}

/** Paints a piece's picture for the building bar. */
export function paintPieceIcon(canvas, piece, side) {
  const ratio = Math.min(3, window.devicePixelRatio || 1);
  const size = 44;
  canvas.width = canvas.height = Math.round(size * ratio);
  const context = canvas.getContext('2d');
  context.translate(canvas.width / 2, canvas.height / 2);
  const painter = SLOT_PAINTERS[piece.slot] ?? paintInside;
  if (piece.slot === 'edge') {
    context.scale(canvas.width / 2.6, canvas.width / 2.6);
    context.translate(0, side / 2 + 0.2);
  } else {
    const span = piece.slot === 'inside' ? 1.9 : side + 0.3;
    context.scale(canvas.width / span, canvas.width / span);
    if (piece.slot === 'inside') context.translate(0, 0.2);
    if (piece.slot === 'floor') {
      // Floors that need walls float above a shadow.
      if (piece.needs === 'walls') {
        context.fillStyle = 'rgba(0,0,0,0.4)';
        context.fillRect(-side / 2 + 0.2, -side / 2 + 0.3, side, side);
        context.scale(0.88, 0.88);
      }
    }
  }
  painter(context, seeded(3), { key: piece.key, turn: 0, side });
  if (piece.slot === 'inside' && /fire/.test(piece.key)) paintFlames(context, 0, 1, false);
}
