// The page: noVNC's screen, and who controls it. It comes back by itself when the viewer does.

import { Control, address, findToken, keepToken } from './control.js';
import { Keys } from './keys.js';
import { keyMenu, toast, typingBox } from './panels.js';
import { softKeyboard } from './softkeys.js';
import { Touch } from './touch.js';

// Milliseconds before the next try, doubled each time up to the last.
const FIRST_WAIT = 250;
const LAST_WAIT = 8000;

const NO_INPUT = 'This VM takes no input here (start the device with --input-socket).';
const NOBODY = { holder: null, firm: false, seats: 0, input: false, touch: false, leds: {} };

const at = (id) => document.getElementById(id);
const remember = {
  get: (name, otherwise) => localStorage.getItem(`beamsplit.${name}`) ?? otherwise,
  set: (name, value) => localStorage.setItem(`beamsplit.${name}`, value),
};

let control = null;
let rfb = null;
let wait = FIRST_WAIT;
let timer = 0;
/** What the viewer told: our seat, who controls, and the VM. */
let seat = null;
let floor = NOBODY;
let vm = null;
let head = null;
/** In control when the viewer went: so again if nobody else is. */
let wasInControl = false;
let hintWasHidden = false;

const mayControl = () => seat?.right === 'control';
const isMine = () => seat !== null && floor.holder === seat.seat;
const other = (news) => (news.name && news.name !== 'Browser' ? news.name : 'Somebody else');
/** Who only passed by with the mouse does not count. */
const isTaken = () => floor.holder !== null && floor.firm;
const isFree = () => seat !== null && !isTaken() && mayControl();

const keys = new Keys();
const caps = () => Boolean(floor.leds.caps);
const soft = softKeyboard(keys, caps, toast);
const focus = () => { if (!soft.isOpen()) rfb?.focus({ preventScroll: true }); };
const menu = keyMenu(keys, focus);
const typing = typingBox(keys, caps, focus);
const touch = new Touch(at('screen'), (points) => control?.say({ do: 'touch', head, points }), focus);

// ---- What is shown

function show(state, text) {
  document.body.dataset.state = state;
  at('state').textContent = text;
}

function showHeads() {
  at('heads').hidden = vm.heads.length < 2;
  at('heads').replaceChildren(...vm.heads.map((_, index) => {
    const made = document.createElement('button');
    made.type = 'button';
    made.textContent = String(index + 1);
    made.title = `Screen ${index + 1}`;
    if (index === head) made.setAttribute('aria-current', 'page');
    made.addEventListener('click', () => lookAt(index));
    return made;
  }));
}

function showVm() {
  at('name').textContent = vm.name || 'Virtual machine';
  document.title = vm.name ? `${vm.name} - Beamsplit` : 'Beamsplit';
  showHeads();
  const shown = vm.heads[head];
  let text = '';
  if (vm.missing) text = vm.missing;
  else if (vm.connected && !shown) text = `There is no screen ${head + 1}.`;
  else if (shown?.too_large) text = 'The guest’s screen is too large to be shown here.';
  at('notice').textContent = text;
  at('notice').hidden = !text;
}

function showSize() {
  const canvas = at('screen').querySelector('canvas');
  at('size').textContent = canvas && canvas.width ? `${canvas.width} × ${canvas.height}` : '';
}

// noVNC says nothing when the guest changes its mode: the canvas does.
new MutationObserver(showSize).observe(at('screen'), {
  subtree: true, childList: true, attributes: true, attributeFilter: ['width', 'height'],
});

/** Everything that depends on who controls. */
function showFloor() {
  const [mine, free] = [isMine(), isFree()];
  let who = 'none';
  if (seat) who = mine ? 'mine' : free ? 'free' : isTaken() ? 'other' : 'nobody';
  document.body.dataset.floor = who;

  const types = floor.input && (mine || free);
  if (rfb) {
    // Who is alone in front of it need not ask; without input it is controlled for its size only.
    const follow = (name, value) => { if (rfb[name] !== value) rfb[name] = value; };
    follow('viewOnly', !(mine || types));
    follow('resizeSession', mine && remember.get('resize', 'no') === 'yes');
  }
  touch.on = types && floor.touch;
  if (!types) {
    keys.attach(rfb);
    typing.stop();
    touch.forget();
    menu.close();
  }
  for (const id of ['keys', 'type', 'soft']) at(id).disabled = !types;
  at('resize').disabled = seat === null || !mayControl();
  at('shot').disabled = !rfb;

  at('control').hidden = seat === null || !mayControl();
  at('control').textContent = mine ? 'Release control' : 'Take control';
  at('control').title = mine ? 'Let somebody else type' : 'Type and point in this VM';
  at('mode').hidden = seat === null || mine;
  const modes = { free: ['Nobody in control', 'Whoever types first is in control'], other: ['Watching', `${other(floor)} is in control`] };
  const [mode, title] = mayControl() ? modes[who] ?? ['', ''] : ['View only', 'This token may look, not type'];
  at('mode').textContent = floor.input || !mayControl() ? mode : 'No input';
  at('mode').title = floor.input || !mayControl() ? title : NO_INPUT;

  at('viewers').hidden = seat === null;
  at('count').textContent = String(floor.seats);
  at('viewers').title = floor.seats === 1 ? 'Nobody else is here' : `${floor.seats} are here, this page among them`;
  at('lights').hidden = seat === null || !floor.input;
  at('num').classList.toggle('lit', Boolean(floor.leds.num));
  at('caps').classList.toggle('lit', caps());

  at('hint').hidden = hintWasHidden || seat === null || floor.input;
  at('hint').firstElementChild.textContent = NO_INPUT;
}

function showScale() {
  const fits = remember.get('scale', 'yes') === 'yes';
  at('scale').setAttribute('aria-pressed', String(fits));
  if (rfb) rfb.scaleViewport = fits;
}

// ---- Connecting

function hang() {
  control?.close();
  const screen = rfb;
  [control, rfb, seat, floor] = [null, null, null, NOBODY];
  keys.attach(null);
  screen?.disconnect();
}

function again() {
  if (isMine() && floor.firm) wasInControl = true;
  hang();
  show('connecting', 'Reconnecting');
  showFloor();
  clearTimeout(timer);
  timer = setTimeout(connect, wait);
  wait = Math.min(wait * 2, LAST_WAIT);
}

function connect() {
  clearTimeout(timer);
  timer = 0;
  hang();
  const token = findToken();
  control = new Control(token, {
    closed: again,
    refused: ({ why }) => {
      hang();
      showFloor();
      wasInControl = false;
      keepToken(null);
      show('missing', why === 'revoked' ? 'The token was withdrawn' : 'A token is needed');
      askForToken(Boolean(token) && why === 'token');
    },
    seat: (news) => {
      seat = news;
      head ??= headAsked() ?? news.head;
    },
    vm: (news) => { vm = news; showVm(); },
    floor: (news) => {
      const lost = isMine() && news.holder !== null && news.holder !== seat.seat;
      if (lost) toast(`${other(news)} took control.`);
      floor = news;
      if (wasInControl) {
        wasInControl = false;
        if (isFree()) control.say({ do: 'take', if_free: true });
      }
      showFloor();
    },
    ticket: ({ ticket }) => openScreen(ticket),
  });
}

function headAsked() {
  const asked = Number(new URLSearchParams(location.search).get('head') ?? NaN);
  return Number.isInteger(asked) && asked >= 0 ? asked : null;
}

async function openScreen(ticket) {
  const asker = control;
  if (vm.missing) {
    show('missing', 'noVNC is missing');
    return;
  }
  let RFB;
  try {
    RFB = (await import('./novnc/core/rfb.js')).default;
  } catch (error) {
    console.info('Not yet:', error.message);
    if (asker === control) again();
    return;
  }
  if (asker !== control) return;
  const screen = new RFB(at('screen'), address(`screen?head=${head}&ticket=${ticket}&cursor=drawn`));
  rfb = screen;
  rfb.background = 'transparent';
  // A guest that shows no pointer, as a text console, leaves a dot.
  rfb.showDotCursor = true;
  keys.attach(rfb);
  showScale();
  showFloor();
  rfb.addEventListener('connect', () => {
    wait = FIRST_WAIT;
    show('connected', 'Connected');
    showSize();
    if (!document.activeElement || document.activeElement === document.body) focus();
    // What the viewer knows of the heads it may have learnt only now.
    control?.say({ do: 'tell' });
  });
  rfb.addEventListener('desktopname', (event) => { vm.name = event.detail.name; showVm(); });
  rfb.addEventListener('disconnect', () => { if (screen === rfb) again(); });
}

/** Shows another screen, without leaving the seat. */
function lookAt(index) {
  if (index === head || !control) return;
  head = index;
  const url = new URL(location.href);
  url.searchParams.set('head', index);
  history.replaceState(history.state, '', url);
  allUp();
  const screen = rfb;
  rfb = null;
  screen?.disconnect();
  showVm();
  control.say({ do: 'ticket' });
}

function askForToken(wasWrong) {
  at('wrong').hidden = !wasWrong;
  at('token').value = '';
  if (!at('ask').open) at('ask').showModal();
  at('token').focus();
}

at('ask').addEventListener('cancel', (event) => event.preventDefault());
at('ask').addEventListener('submit', () => {
  keepToken(at('token').value.trim());
  at('token').value = '';
  connect();
});
window.addEventListener('hashchange', () => {
  if (!new URLSearchParams(location.hash.slice(1)).has('token')) return;
  at('ask').close();
  connect();
});

// ---- What people press

at('control').addEventListener('click', () => {
  control?.say({ do: isMine() ? 'release' : 'take' });
  focus();
});
at('screen').addEventListener('pointerdown', () => {
  if (mayControl() && floor.input && !isMine() && !isFree()) toast(`${other(floor)} is in control. Press “Take control” to type.`);
});
at('resize').addEventListener('click', () => {
  const on = remember.get('resize', 'no') !== 'yes';
  remember.set('resize', on ? 'yes' : 'no');
  showResize();
  showFloor();
  if (on && !isMine()) toast('The guest’s screen follows this window while you are in control.');
});
function showResize() {
  at('resize').setAttribute('aria-pressed', String(remember.get('resize', 'no') === 'yes'));
}
at('scale').addEventListener('click', () => {
  remember.set('scale', remember.get('scale', 'yes') === 'yes' ? 'no' : 'yes');
  showScale();
});
at('full').addEventListener('click', () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().then(() => navigator.keyboard?.lock?.()).catch(() => {});
  focus();
});
at('shot').addEventListener('click', () => {
  at('screen').querySelector('canvas')?.toBlob((blob) => {
    if (!blob) return;
    const link = document.createElement('a');
    const time = new Date().toISOString().slice(0, 19).replace(/:/g, '-');
    link.download = `${(vm?.name || 'screen').replace(/[^\w.-]+/g, '_')}-${time}.png`;
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
});
function showTools(open) {
  at('bar').classList.toggle('open', open);
  at('more').setAttribute('aria-expanded', String(open));
}
at('more').addEventListener('click', () => showTools(!at('bar').classList.contains('open')));
at('tools').addEventListener('click', () => showTools(false));
at('screen').addEventListener('pointerdown', () => showTools(false));
at('hint').lastElementChild.addEventListener('click', () => { hintWasHidden = true; showFloor(); });
// Buttons do not take the keyboard from the picture.
at('bar').addEventListener('mousedown', (event) => { if (event.target.closest('button')) event.preventDefault(); });

// ---- Nothing stays down when nobody looks

function allUp() {
  keys.letGo();
  touch.forget();
  control?.say({ do: 'up' });
}

window.addEventListener('blur', allUp);
window.addEventListener('pagehide', allUp);
// noVNC lets its keys go when the window loses the keyboard; when only the picture does, this is the same.
at('screen').addEventListener('focusout', () => window.dispatchEvent(new Event('blur')));
document.addEventListener('visibilitychange', () => {
  if (document.hidden) window.dispatchEvent(new Event('blur'));
  // Somebody who comes back to the page does not want to wait.
  else if (timer) {
    wait = FIRST_WAIT;
    connect();
  }
});

showScale();
showResize();
showFloor();
connect();
