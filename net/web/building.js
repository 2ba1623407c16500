// The building grid as this client understands it: which cell is under the pointer, and whether a piece would probably be
// accepted there. The server decides (`sim/src/build/`); these checks only colour the preview and name the likely reason.

/** The cell that holds a point. */
export function cellAt(xMm, zMm, gridMm) {
  return { column: Math.floor(xMm / gridMm), row: Math.floor(zMm / gridMm) };
}

/**
 * Names the place that a piece fills, so that equal places have equal names: an edge shared by two cells belongs to the cell
 * south or east of it, as that cell's north or west edge.
 */
export function placeName({ column, row, level, turn }, slot) {
  if (slot !== 'edge') return `${column},${row},${level},${slot}`;
  if (turn === 1) return `${column + 1},${row},${level},west`;
  if (turn === 2) return `${column},${row + 1},${level},north`;
  return `${column},${row},${level},${turn === 0 ? 'north' : 'west'}`;
}

/** Why the piece would probably be rejected, as a sentence for the player, or an empty text. */
export function objection({ view, catalogue, terrain, piece, column, row, level, turn }) {
  const missing = catalogue.missingInWords(piece.cost, view.held());
  if (missing) return missing;
  const own = view.own?.pose;
  const grid = catalogue.gridMm;
  if (own && Math.hypot((column + 0.5) * grid - own.x, (row + 0.5) * grid - own.z) > catalogue.reachMm + grid) {
    return 'Too far away';
  }
  const place = (slot, placeTurn, storey) => placeName({ column, row, level: storey, turn: placeTurn }, slot);
  const taken = placesAround(view, catalogue, column, row, level);
  if (taken.has(place(piece.slot, turn, level))) return 'The space is taken';
  if (piece.needs === 'ground' && level > 0) return 'Belongs on the ground';
  if (piece.needs === 'ground' && unevenness(terrain, column, row, grid) > catalogue.unevenGroundMm) {
    return 'The ground is too steep';
  }
  if (piece.needs === 'floor' && !taken.has(place('floor', 0, level))) return 'Needs a floor below it';
  if (piece.needs === 'walls') {
    if (level === 0) return 'Belongs on a higher storey';
    const below = placesAround(view, catalogue, column, row, level - 1);
    const walled = [0, 1, 2, 3].some((edge) => below.has(place('edge', edge, level - 1)));
    if (!walled) return 'Needs a wall one storey below';
  }
  return '';
}

/** Height difference of a cell's corners in millimetres. */
function unevenness(terrain, column, row, gridMm) {
  const corners = [0, 1].flatMap((dr) =>
    [0, 1].map((dc) => terrain.height((column + dc) * gridMm, (row + dr) * gridMm)),
  );
  return Math.max(...corners) - Math.min(...corners);
}

/** The places that pieces of one storey fill in a cell and its neighbours. */
function placesAround(view, catalogue, column, row, level) {
  const places = new Set();
  for (let dr = -1; dr <= 1; dr += 1) {
    for (let dc = -1; dc <= 1; dc += 1) {
      for (const { structure } of view.piecesIn(column + dc, row + dr, level)) {
        places.add(placeName(structure, catalogue.pieces.get(structure.piece)?.slot ?? 'inside'));
      }
    }
  }
  return places;
}
