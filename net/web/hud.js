// The panels around the world: join card, status, inventory, crafting, building bar, messages and banner. It shows state that it
// is given and reports what was pressed; it decides nothing.

import { paintItemIcon, paintPieceIcon } from './sprites.js';

const TOASTS_MAX = 5;
const TOAST_MS = 4_200;

const $ = (id) => document.getElementById(id);

/** An element with attributes, texts and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'class') element.className = value;
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

/** Sets a text only when it changed, so that nothing is laid out in vain. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Handlers: `join(name)`, `craft(recipe)`, `piece(piece)`, `demolish()`, `move(from, to, count)`, `rejoin()`. */
export class Hud {
  #handlers;
  #catalogue = null;
  #recipeRows = [];
  #pieceButtons = [];
  #slotButtons = [];
  #slots = [];
  #pickedSlot = null;
  #hintText = '';

  constructor(handlers) {
    this.#handlers = handlers;
    $('join-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const name = $('join-name').value.trim();
      if (name) handlers.join(name);
      else $('join-name').focus();
    });
    $('rejoin').addEventListener('click', () => handlers.rejoin());
    $('demolish').addEventListener('click', () => handlers.demolish());
    for (const panel of ['inventory', 'crafting', 'help']) {
      $(`toggle-${panel}`).addEventListener('click', () => this.toggle(panel));
    }
    if (window.innerWidth < 900 || window.innerHeight < 560) {
      this.toggle('inventory', false);
      this.toggle('crafting', false);
    }
  }

  // ---- Join card and banner ------------------------------------------------------------------------------------------

  showJoin(name, message = '') {
    document.body.dataset.stage = 'join';
    $('join-name').value = name;
    this.setJoinMessage(message, message !== '');
    $('join').disabled = false;
    $('join-name').focus();
    $('join-name').select();
  }

  setJoinMessage(text, bad = false) {
    setText($('join-message'), text);
    $('join-message').classList.toggle('bad', bad);
  }

  showJoining(stage) {
    $('join').disabled = true;
    this.setJoinMessage(`${stage} …`);
    setText($('banner-text'), `${stage} …`);
  }

  showWorld() {
    document.body.dataset.stage = 'world';
    $('banner').hidden = true;
    this.setJoinMessage('');
    if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
  }

  showLost(reason) {
    $('banner').hidden = false;
    setText($('banner-text'), reason);
    $('rejoin').disabled = false;
    $('rejoin').focus();
  }

  setRejoining() {
    $('rejoin').disabled = true;
  }

  // ---- Status --------------------------------------------------------------------------------------------------------

  /** Texts by the id of their element; `level` of the connection dot is good, fair or bad. */
  setStatus(texts, level) {
    for (const [id, text] of Object.entries(texts)) setText($(`status-${id}`), text);
    $('status').dataset.level = level;
  }

  setJoinInfo(text) {
    setText($('join-info'), text);
  }

  // ---- Panels --------------------------------------------------------------------------------------------------------

  toggle(panel, open = $(panel).hidden) {
    $(panel).hidden = !open;
    $(`toggle-${panel}`).setAttribute('aria-expanded', String(open));
  }

  /** Builds what depends on content; called at each welcome. */
  setCatalogue(catalogue) {
    this.#catalogue = catalogue;
    this.#buildCrafting();
    this.#buildPieces();
    this.#buildInventory();
  }

  #itemIcon(item) {
    const canvas = make('canvas', { class: 'icon', 'aria-hidden': 'true' });
    paintItemIcon(canvas, this.#catalogue.itemKey(item), this.#catalogue.itemName(item));
    return canvas;
  }

  #buildCrafting() {
    const catalogue = this.#catalogue;
    this.#recipeRows = [];
    const rows = [...catalogue.recipes.values()].map((recipe) => {
      const output = recipe.outputs[0];
      const reason = make('span', { class: 'reason' });
      const inputs = recipe.inputs.map(([item, count]) => {
        const chip = make('span', { class: 'chip' }, `${count} ${catalogue.itemName(item)}`);
        return { chip, item, count };
      });
      const button = make(
        'button',
        { type: 'button', class: 'small', 'data-testid': `craft-${recipe.key}`, 'aria-label': `Craft: ${recipe.name}` },
        'Craft',
      );
      button.addEventListener('click', () => this.#handlers.craft(recipe));
      this.#recipeRows.push({ recipe, button, reason, inputs });
      return make(
        'li',
        { class: 'recipe' },
        output ? this.#itemIcon(output[0]) : '',
        make(
          'div',
          { class: 'recipe-text' },
          make('strong', {}, recipe.name),
          make('span', { class: 'gives' }, `gives ${catalogue.countsInWords(recipe.outputs)}`),
          make('span', { class: 'chips' }, ...inputs.map(({ chip }) => chip)),
          reason,
        ),
        button,
      );
    });
    $('recipes').replaceChildren(...rows);
  }

  #buildPieces() {
    const catalogue = this.#catalogue;
    // In the order in which one builds: what stands on the ground, walls, upper floors, furnishing.
    const rank = ({ needs, slot }) => (needs === 'ground' ? 0 : slot === 'edge' ? 1 : needs === 'walls' ? 2 : 3);
    const pieces = [...catalogue.pieces.values()].sort((a, b) => rank(a) - rank(b) || a.id - b.id);
    this.#pieceButtons = pieces.map((piece, i) => {
      const canvas = make('canvas', { class: 'piece-icon', 'aria-hidden': 'true' });
      paintPieceIcon(canvas, piece, catalogue.gridMm / 1_000);
      const affordable = make('span', { class: 'count' });
      const button = make(
        'button',
        { type: 'button', class: 'piece', 'data-testid': `piece-${piece.key}`, 'aria-pressed': 'false' },
        i < 9 ? make('kbd', {}, String(i + 1)) : '',
        affordable,
        canvas,
        make('span', { class: 'piece-name' }, piece.name),
        make('span', { class: 'cost' }, catalogue.countsInWords(piece.cost)),
      );
      button.addEventListener('click', () => {
        button.blur();
        this.#handlers.piece(piece);
      });
      return { piece, button, affordable };
    });
    $('pieces').replaceChildren(...this.#pieceButtons.map(({ button }) => button));
  }

  #buildInventory() {
    this.#pickedSlot = null;
    this.#slotButtons = Array.from({ length: this.#catalogue.inventorySlots }, (_, index) => {
      const button = make('button', { type: 'button', class: 'slot', 'data-testid': `slot-${index}`, draggable: 'true' });
      button.addEventListener('click', (event) => this.#clickSlot(index, event.shiftKey));
      button.addEventListener('dragstart', (event) => {
        if (!this.#slots[index]) {
          event.preventDefault();
          return;
        }
        event.dataTransfer.setData('text/plain', String(index));
        event.dataTransfer.effectAllowed = 'move';
        this.#pick(index);
      });
      button.addEventListener('dragover', (event) => event.preventDefault());
      button.addEventListener('drop', (event) => {
        event.preventDefault();
        if (this.#pickedSlot !== null) this.#moveTo(index, event.shiftKey);
      });
      button.addEventListener('dragend', () => this.#pick(null));
      return button;
    });
    $('slots').replaceChildren(...this.#slotButtons);
  }

  #clickSlot(index, half) {
    if (this.#pickedSlot !== null) this.#moveTo(index, half);
    else if (this.#slots[index]) this.#pick(index);
  }

  /** Moves the picked stack, or half of it. */
  #moveTo(to, half) {
    const from = this.#pickedSlot;
    this.#pick(null);
    if (from === to) return;
    const count = half ? Math.ceil((this.#slots[from]?.count ?? 0) / 2) : 0;
    this.#handlers.move(from, to, count);
  }

  #pick(index) {
    this.#pickedSlot = index;
    this.#slotButtons.forEach((button, i) => button.classList.toggle('picked', i === index));
  }

  /** Lets go of a picked stack; true when there was one. */
  unpick() {
    const picked = this.#pickedSlot !== null;
    this.#pick(null);
    return picked;
  }

  /** Shows what is held, and what can be made and built with it. */
  setInventory(slots, held) {
    const catalogue = this.#catalogue;
    this.#slotButtons.forEach((button, index) => {
      const slot = slots[index] ?? null;
      const before = this.#slots[index] ?? null;
      if (button.dataset.shown && before?.item === slot?.item && before?.count === slot?.count) return;
      button.dataset.shown = 'yes';
      button.classList.toggle('empty', !slot);
      const label = slot ? `${slot.count} ${catalogue.itemName(slot.item)}` : 'Empty slot';
      button.title = label;
      button.setAttribute('aria-label', `Slot ${index + 1}: ${label}`);
      if (slot) button.replaceChildren(this.#itemIcon(slot.item), make('span', { class: 'count' }, String(slot.count)));
      else button.replaceChildren();
    });
    this.#slots = slots;
    if (this.#pickedSlot !== null && !slots[this.#pickedSlot]) this.#pick(null);
    const used = slots.filter(Boolean).length;
    setText($('slots-used'), `${used} / ${catalogue.inventorySlots}`);

    for (const { recipe, button, reason, inputs } of this.#recipeRows) {
      const missing = catalogue.missingInWords(recipe.inputs, held);
      button.disabled = missing !== '';
      button.title = missing || `Craft ${catalogue.countsInWords(recipe.outputs)}`;
      setText(reason, missing);
      for (const { chip, item, count } of inputs) chip.classList.toggle('lacking', (held.get(item) ?? 0) < count);
    }
    for (const { piece, button, affordable } of this.#pieceButtons) {
      const times = Math.min(999, ...piece.cost.map(([item, count]) => Math.floor((held.get(item) ?? 0) / count)));
      button.classList.toggle('lacking', times === 0);
      setText(affordable, times > 0 ? `×${times}` : '');
      const missing = catalogue.missingInWords(piece.cost, held);
      button.title = `${piece.name}: ${catalogue.countsInWords(piece.cost)}${missing ? `. ${missing}` : ''}`;
    }
  }

  /** Which tool is in use: `{piece}` , `{demolish: true}` or null; and one line about it. */
  setTool(tool, hint) {
    for (const { piece, button } of this.#pieceButtons) {
      button.setAttribute('aria-pressed', String(tool?.piece === piece));
    }
    $('demolish').setAttribute('aria-pressed', String(Boolean(tool?.demolish)));
    if (hint === this.#hintText) return;
    this.#hintText = hint;
    $('hint').hidden = hint === '';
    setText($('hint'), hint);
  }

  /** The piece on a number key, or undefined. */
  pieceByNumber(number) {
    return this.#pieceButtons[number - 1]?.piece;
  }

  // ---- Messages ------------------------------------------------------------------------------------------------------

  toast(text, kind = 'good') {
    const toast = make('div', { class: `toast ${kind}` }, text);
    $('toasts').append(toast);
    while ($('toasts').children.length > TOASTS_MAX) $('toasts').firstElementChild.remove();
    setTimeout(() => toast.classList.add('leaving'), TOAST_MS - 300);
    setTimeout(() => toast.remove(), TOAST_MS);
  }

  /** A small label at the pointer, or nothing. `lines` are `[title, detail]`. */
  setTooltip(pointer, lines) {
    const tooltip = $('tooltip');
    if (!pointer || !lines) {
      tooltip.hidden = true;
      return;
    }
    tooltip.hidden = false;
    setText($('tooltip-title'), lines[0]);
    setText($('tooltip-detail'), lines[1] ?? '');
    const x = Math.min(pointer.x + 16, window.innerWidth - tooltip.offsetWidth - 8);
    const y = Math.min(pointer.y + 18, window.innerHeight - tooltip.offsetHeight - 8);
    tooltip.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
  }
}
