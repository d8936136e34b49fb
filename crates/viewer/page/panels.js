// What opens over the picture: the menu of keys, the box for text, and short messages.

import { COMBINATIONS, CONSOLES, MODIFIERS, typeText } from './keys.js';

const at = (id) => document.getElementById(id);

export function button(text, act, attributes = {}) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  // The picture keeps the keyboard.
  made.addEventListener('mousedown', (event) => event.preventDefault());
  made.addEventListener('click', () => act(made));
  return made;
}

/** Buttons that hold a modifier down until they are pressed again. */
export function holders(keys, role) {
  return MODIFIERS.map(([text, code]) => button(text, (self) => {
    keys.hold(code, !keys.held.has(code));
    self.setAttribute(role === 'menuitemcheckbox' ? 'aria-checked' : 'aria-pressed', String(keys.held.has(code)));
  }, { ...(role ? { role } : {}), 'data-hold': code }));
}

/** The buttons show what is held. */
export function showHeld(keys) {
  for (const one of document.querySelectorAll('[data-hold]')) {
    const name = one.getAttribute('role') === 'menuitemcheckbox' ? 'aria-checked' : 'aria-pressed';
    one.setAttribute(name, String(keys.held.has(one.dataset.hold)));
  }
}

export function keyMenu(keys, focus) {
  const [menu, opener] = [at('menu'), at('keys')];
  const close = () => { menu.hidden = true; opener.setAttribute('aria-expanded', 'false'); };
  const press = (codes) => () => { keys.press(...codes); close(); focus(); };
  const group = (title, name, buttons) => {
    const [box, heading] = [document.createElement('div'), document.createElement('h2')];
    heading.textContent = title;
    box.className = name;
    box.append(heading, ...buttons);
    return box;
  };
  const item = ([text, ...codes]) => button(text, press(codes), { role: 'menuitem' });
  menu.append(
    group('Press', 'pair', COMBINATIONS.map(item)),
    group('Console: Ctrl+Alt+', 'grid', CONSOLES.map(item)),
    group('Hold down', 'grid', holders(keys, 'menuitemcheckbox')),
  );
  opener.addEventListener('click', () => {
    menu.hidden = !menu.hidden;
    opener.setAttribute('aria-expanded', String(!menu.hidden));
    showHeld(keys);
  });
  document.addEventListener('pointerdown', (event) => {
    if (!menu.hidden && !menu.contains(event.target) && !opener.contains(event.target)) close();
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !menu.hidden && !at('screen').contains(event.target)) close();
  });
  return { close };
}

/** The box for text. `caps` says whether the guest's caps lock is on. */
export function typingBox(keys, caps, focus) {
  const [form, text, bar, said] = [at('typing'), at('text'), at('typed'), at('left-out')];
  const submit = form.querySelector('[type=submit]');
  let typing = false;
  const close = () => { typing = false; form.hidden = true; focus(); };
  at('type').addEventListener('click', () => {
    if (!form.hidden) return close();
    form.hidden = false;
    said.textContent = '';
    text.focus();
  });
  at('typing-close').addEventListener('click', close);
  form.addEventListener('keydown', (event) => { if (event.key === 'Escape') close(); });
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (typing) {
      typing = false;
      return;
    }
    typing = true;
    [bar.hidden, submit.textContent, said.textContent] = [false, 'Stop', ''];
    const leftOut = await typeText(keys, text.value, caps, (done) => { bar.value = done; return typing; });
    if (typing) text.value = '';
    typing = false;
    [bar.hidden, submit.textContent] = [true, 'Type'];
    said.textContent = leftOut.length ? `No key for: ${leftOut.slice(0, 20).join(' ')}` : '';
  });
  return { close, stop: () => { typing = false; } };
}

let toasting = 0;

/** A message that goes by itself. */
export function toast(text) {
  at('toast').textContent = text;
  at('toast').hidden = !text;
  clearTimeout(toasting);
  toasting = setTimeout(() => { at('toast').hidden = true; }, 4000);
}
