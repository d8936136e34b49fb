// A phone's keyboard types into a field that nobody sees; what arrives there becomes keys. A row of keys that phones lack is
// shown with it.

import { button, holders, showHeld } from './panels.js';

const at = (id) => document.getElementById(id);

const KEYS = [['Esc', 'Escape'], ['Tab', 'Tab'], ['←', 'ArrowLeft'], ['↑', 'ArrowUp'], ['↓', 'ArrowDown'], ['→', 'ArrowRight']];

/** Always something to delete, else a phone does not say that somebody does. */
const FILL = '_'.repeat(50);
const MOST = 200;

/** `caps` says whether the guest's caps lock is on; `complain` is told of characters without a key. */
export function softKeyboard(keys, caps, complain) {
  const [pad, bar, opener] = [at('pad'), at('softkeys'), at('soft')];
  let known = '';

  const reset = () => {
    pad.value = FILL;
    pad.setSelectionRange(FILL.length, FILL.length);
    known = FILL;
  };
  const show = (shown) => {
    bar.hidden = !shown;
    opener.setAttribute('aria-pressed', String(shown));
    keys.letGo();
    showHeld(keys);
  };
  // A modifier that was pressed here is for one key.
  const press = (...codes) => {
    keys.press(...codes);
    keys.letGo();
    showHeld(keys);
  };

  bar.append(...holders(keys).slice(0, 3), ...KEYS.map(([text, ...codes]) => button(text, () => press(...codes))));
  opener.addEventListener('mousedown', (event) => event.preventDefault());
  opener.addEventListener('click', () => {
    if (document.activeElement === pad) {
      pad.blur();
      return;
    }
    reset();
    pad.focus({ preventScroll: true });
  });
  pad.addEventListener('focus', () => show(true));
  pad.addEventListener('blur', () => show(false));
  pad.addEventListener('keydown', (event) => {
    // A key that has a name; characters come as input, also those of a word that is still being put together.
    if (event.isComposing || event.keyCode === 229 || !event.code || event.key.length === 1) return;
    event.preventDefault();
    press(event.code);
  });
  pad.addEventListener('input', (event) => {
    const now = pad.value;
    let same = 0;
    while (same < known.length && known[same] === now[same]) same += 1;
    for (let left = known.length - same; left > 0; left--) keys.press('Backspace');
    for (const character of now.slice(same)) {
      if (!keys.character(character, caps())) complain(`A US keyboard has no key for ${character}`);
    }
    keys.letGo();
    showHeld(keys);
    known = now;
    if (!event.isComposing && (now.length < FILL.length / 2 || now.length > MOST)) reset();
  });
  return { isOpen: () => document.activeElement === pad, close: () => pad.blur() };
}
