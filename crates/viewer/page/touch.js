// Fingers on the picture, for a guest that has a touch screen. Without one noVNC makes a mouse of them.

/** Fingers that a guest can tell apart. */
const SLOTS = 10;
const LAST = 65535;

export class Touch {
  /** True while fingers go to the guest. */
  on = false;
  #slots = new Array(SLOTS).fill(null);
  #moved = new Map();
  #frame = 0;

  /** `send` gets lists of [slot, phase, x, y], the places as shares of the picture. */
  constructor(element, send, focus) {
    this.send = send;
    this.focus = focus;
    // Before noVNC sees them.
    const options = { capture: true, passive: false };
    for (const kind of ['touchstart', 'touchmove', 'touchend', 'touchcancel']) {
      element.addEventListener(kind, (event) => this.#take(event), options);
    }
    this.element = element;
  }

  #take(event) {
    const ours = [...event.changedTouches].some((touch) => this.#slots.includes(touch.identifier));
    if (!this.on && !ours) return;
    const canvas = this.element.querySelector('canvas');
    if (!canvas || event.target !== canvas) return;
    event.preventDefault();
    event.stopPropagation();
    this.focus();
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const share = (at, length) => Math.round(Math.min(Math.max(at / length, 0), 1) * LAST);
    const points = [];
    for (const touch of event.changedTouches) {
      let slot = this.#slots.indexOf(touch.identifier);
      const place = [share(touch.clientX - left, width), share(touch.clientY - top, height)];
      if (event.type === 'touchstart' && slot < 0) {
        slot = this.#slots.indexOf(null);
        if (slot < 0 || !this.on) continue;
        this.#slots[slot] = touch.identifier;
        points.push([slot, 'down', ...place]);
      } else if (event.type === 'touchmove' && slot >= 0) {
        this.#moved.set(slot, [slot, 'move', ...place]);
      } else if (slot >= 0) {
        this.#slots[slot] = null;
        points.push([slot, 'up', ...place]);
      }
    }
    if (points.length) {
      this.#flush();
      this.send(points);
    } else if (this.#moved.size && !this.#frame) {
      this.#frame = requestAnimationFrame(() => this.#flush());
    }
  }

  /** Moves go once for each picture of the browser's. */
  #flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (this.#moved.size) this.send([...this.#moved.values()]);
    this.#moved.clear();
  }

  /** Forgets the fingers: the guest was told that all are up. */
  forget() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#moved.clear();
    this.#slots.fill(null);
  }
}
