// Keys that a browser keeps for itself, and text as keys. What a key is called here is what a browser calls it (KeyboardEvent.code);
// the number beside it is for servers that know keysyms only.

const KEYSYMS = {
  ControlLeft: 0xffe3, ShiftLeft: 0xffe1, AltLeft: 0xffe9, MetaLeft: 0xffeb, Delete: 0xffff, Tab: 0xff09, Escape: 0xff1b,
  Enter: 0xff0d, Backspace: 0xff08, PrintScreen: 0xff61, ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54,
  Space: 0x20, ContextMenu: 0xff67,
};
for (let number = 1; number <= 12; number++) KEYSYMS[`F${number}`] = 0xffbd + number;

/** Combinations of the menu: what is shown, and the keys. */
export const COMBINATIONS = [
  ['Ctrl+Alt+Del', 'ControlLeft', 'AltLeft', 'Delete'],
  ['Alt+Tab', 'AltLeft', 'Tab'],
  ['Alt+F4', 'AltLeft', 'F4'],
  ['Ctrl+W', 'ControlLeft', 'KeyW'],
  ['Super', 'MetaLeft'],
  ['Print screen', 'PrintScreen'],
  ['Esc', 'Escape'],
  ['Menu', 'ContextMenu'],
];
export const CONSOLES = Array.from({ length: 12 }, (_, index) => [`F${index + 1}`, 'ControlLeft', 'AltLeft', `F${index + 1}`]);
export const MODIFIERS = [['Ctrl', 'ControlLeft'], ['Alt', 'AltLeft'], ['Shift', 'ShiftLeft'], ['Super', 'MetaLeft']];

/** The keys of a US keyboard: each with the character that it makes alone and with shift. */
const US = {
  Backquote: '`~', Minus: '-_', Equal: '=+', BracketLeft: '[{', BracketRight: ']}', Backslash: '\\|', Semicolon: ';:', Quote: '\'"',
  Comma: ',<', Period: '.>', Slash: '/?', Space: ' ', Tab: '\t', Enter: '\n',
};
[...')!@#$%^&*('].forEach((shifted, digit) => { US[`Digit${digit}`] = `${digit}${shifted}`; });
[...'abcdefghijklmnopqrstuvwxyz'].forEach((letter) => { US[`Key${letter.toUpperCase()}`] = letter + letter.toUpperCase(); });

const CHARACTERS = new Map(Object.entries(US).flatMap(([code, made]) => (
  [...made].map((character, index) => [character, { code, shift: index === 1 }]))));

/** The key that makes a character on a US keyboard, if one does. */
export const keyOf = (character) => CHARACTERS.get(character);

/** Sends keys through noVNC. */
export class Keys {
  #rfb = null;
  /** Modifiers that are held down until they are let go. */
  held = new Set();

  /** Where they go from now on. What was held there is held no more. */
  attach(rfb) {
    this.#rfb = rfb;
    this.held.clear();
  }

  #send(code, down, character) {
    const keysym = character?.codePointAt(0) ?? KEYSYMS[code] ?? US[code]?.codePointAt(0);
    this.#rfb?.sendKey(keysym ?? null, code, down);
  }

  /** Down in this order, up in the other one. */
  press(...codes) {
    const needed = codes.filter((code) => !this.held.has(code));
    needed.forEach((code) => this.#send(code, true));
    needed.reverse().forEach((code) => this.#send(code, false));
  }

  /** Presses what makes a character. False: no key of a US keyboard does. */
  character(character, caps = false) {
    const key = keyOf(character);
    if (!key) return false;
    const keysym = KEYSYMS[key.code] ? undefined : character;
    const shift = key.shift !== (caps && key.code.startsWith('Key')) && !this.held.has('ShiftLeft');
    if (shift) this.#send('ShiftLeft', true);
    this.#send(key.code, true, keysym);
    this.#send(key.code, false, keysym);
    if (shift) this.#send('ShiftLeft', false);
    return true;
  }

  hold(code, down) {
    if (down === this.held.has(code)) return;
    if (down) this.held.add(code);
    else this.held.delete(code);
    this.#send(code, down);
  }

  letGo() {
    [...this.held].forEach((code) => this.hold(code, false));
  }
}

/** Milliseconds between two characters: a guest that is slow to take them would miss some. */
const PACE = 20;

/** Types a text. `goOn` is asked before each character, with the share that is done; false ends it. Returns what was left out. */
export async function typeText(keys, text, caps, goOn) {
  const characters = [...text.replace(/\r\n?/g, '\n')];
  const leftOut = new Set();
  for (const [index, character] of characters.entries()) {
    if (!goOn(index / characters.length)) break;
    if (keys.character(character, caps())) await new Promise((done) => { setTimeout(done, PACE); });
    else leftOut.add(character);
  }
  return [...leftOut];
}
