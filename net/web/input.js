// Keyboard and mouse: which way the player wants to walk, where the pointer is, and what was pressed or clicked. It knows
// nothing of the game; `main.js` decides what a press means.

const WALK_KEYS = {
  KeyW: [0, -1],
  ArrowUp: [0, -1],
  KeyS: [0, 1],
  ArrowDown: [0, 1],
  KeyA: [-1, 0],
  ArrowLeft: [-1, 0],
  KeyD: [1, 0],
  ArrowRight: [1, 0],
};

/** Handlers: `key(code, event)` for presses that are not walking, `press(pointer)`, `release()`, `wheel(direction, event)`, `changed()`. */
export class Input {
  /** Pointer in CSS pixels over the canvas, or null. */
  pointer = null;
  sprint = false;

  #held = new Set();
  #scripted = null;

  constructor(canvas, handlers) {
    window.addEventListener('keydown', (event) => {
      if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
      this.#noteSprint(event, handlers);
      if (event.code in WALK_KEYS) {
        event.preventDefault();
        if (!event.repeat) {
          this.#held.add(event.code);
          handlers.changed();
        }
      } else if (!event.repeat) {
        handlers.key(event.code, event);
      }
    });
    window.addEventListener('keyup', (event) => {
      this.#noteSprint(event, handlers);
      if (this.#held.delete(event.code)) handlers.changed();
    });
    const letGo = () => {
      this.#held.clear();
      this.sprint = false;
      handlers.release();
      handlers.changed();
    };
    window.addEventListener('blur', letGo);
    document.addEventListener('visibilitychange', () => document.hidden && letGo());

    canvas.addEventListener('pointermove', (event) => (this.pointer = { x: event.clientX, y: event.clientY }));
    canvas.addEventListener('pointerleave', () => (this.pointer = null));
    canvas.addEventListener('pointerdown', (event) => {
      this.pointer = { x: event.clientX, y: event.clientY };
      // A field or button that had the focus gives it up, so that keys go to the game.
      if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
      if (event.button === 0) handlers.press(this.pointer);
    });
    window.addEventListener('pointerup', () => handlers.release());
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener(
      'wheel',
      (event) => {
        event.preventDefault();
        if (event.deltaY !== 0) handlers.wheel(Math.sign(event.deltaY), event);
      },
      { passive: false },
    );
  }

  #noteSprint(event, handlers) {
    if (event.shiftKey === this.sprint) return;
    this.sprint = event.shiftKey;
    handlers.changed();
  }

  /** Walks by script until `null` gives the keys back. */
  script(walk) {
    this.#scripted = walk;
  }

  /** The wanted direction: `{x, z}` each −127…127 and no longer than 127 together, and `sprint`. */
  get walking() {
    if (this.#scripted) return { ...scaled(this.#scripted.x, this.#scripted.z), sprint: this.#scripted.sprint };
    let x = 0;
    let z = 0;
    for (const code of this.#held) {
      x += WALK_KEYS[code][0];
      z += WALK_KEYS[code][1];
    }
    return { ...scaled(Math.sign(x), Math.sign(z)), sprint: this.sprint };
  }
}

function scaled(x, z) {
  const length = Math.hypot(x, z);
  if (!(length > 0)) return { x: 0, z: 0 };
  const scale = 127 / Math.max(1, length);
  return { x: Math.round(x * scale), z: Math.round(z * scale) };
}

function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}
