// The game's content as the welcome brought it: kinds by number, and words for what things cost and give.

/** The catalogue of one session. Unknown numbers give undefined: the world may hold things that content no longer defines. */
export class Catalogue {
  constructor(json) {
    const raw = JSON.parse(json);
    const list = (value) => (Array.isArray(value) ? value : []);
    this.items = new Map(list(raw.items).map((item) => [item.id, item]));
    this.nodes = new Map(list(raw.nodes).map((node) => [node.id, node]));
    this.pieces = new Map(list(raw.pieces).map((piece) => [piece.id, piece]));
    this.recipes = new Map(list(raw.recipes).map((recipe) => [recipe.id, recipe]));
    this.gait = {
      walkMmS: raw.walk_mm_s ?? 0,
      sprintMmS: raw.sprint_mm_s ?? 0,
      climbMmPerM: raw.climb_mm_per_m ?? 0,
    };
    this.reachMm = raw.reach_mm ?? 4_000;
    this.unevenGroundMm = raw.uneven_ground_mm ?? Infinity;
    this.gridMm = raw.grid_mm ?? 2_000;
    this.storeyMm = raw.storey_mm ?? 2_500;
    this.storeyMax = raw.storey_max ?? 7;
    this.harvestIntervalMs = raw.harvest_interval_ms ?? 250;
    this.inventorySlots = raw.inventory_slots ?? 24;
  }

  itemName(id) {
    return this.items.get(id)?.name ?? `item ${id}`;
  }

  itemKey(id) {
    return this.items.get(id)?.key ?? `item_${id}`;
  }

  /** Item counts as words: "2 Plank, 1 Rope". */
  countsInWords(counts) {
    return counts.map(([item, count]) => `${count} ${this.itemName(item)}`).join(', ');
  }

  /** Gains and losses as words: "+3 Wood, −1 Rope". */
  changesInWords(changes) {
    return changes
      .map(({ item, count }) => `${count < 0 ? '−' : '+'}${Math.abs(count)} ${this.itemName(item)}`)
      .join(', ');
  }

  /** What is missing of `counts`, as words, or an empty text when `held` (item number → count) suffices. */
  missingInWords(counts, held) {
    const missing = counts
      .map(([item, count]) => [item, count - (held.get(item) ?? 0)])
      .filter(([, count]) => count > 0);
    return missing.length === 0 ? '' : `Missing ${this.countsInWords(missing)}`;
  }
}
