// The page: noVNC's screen, told by status.json what it shows, and coming back by itself when the viewer does.

// Milliseconds before the next try, doubled each time up to the last.
const FIRST_WAIT = 250;
const LAST_WAIT = 8000;

const at = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const remember = { scale: localStorage.getItem('beamsplit.scale') !== 'no' };

let rfb = null;
let wait = FIRST_WAIT;
let timer = 0;

function show(state, text) {
  document.body.dataset.state = state;
  at('state').textContent = text;
}

function notice(text) {
  at('notice').textContent = text ?? '';
  at('notice').hidden = !text;
}

async function fetchStatus() {
  const answer = await fetch('status.json', { cache: 'no-store' });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

function headOf(status) {
  const head = Number(asked.get('head') ?? status.head);
  return Number.isInteger(head) && head >= 0 ? head : 0;
}

function showHeads(status) {
  const heads = status.heads.length;
  at('heads').hidden = heads < 2;
  at('heads').replaceChildren(...Array.from({ length: heads }, (_, index) => {
    const link = document.createElement('a');
    link.href = `?head=${index}`;
    link.textContent = String(index + 1);
    link.title = `Screen ${index + 1}`;
    if (index === headOf(status)) link.setAttribute('aria-current', 'page');
    return link;
  }));
}

function showName(name) {
  at('name').textContent = name || 'Virtual machine';
  document.title = name ? `${name} - Beamsplit` : 'Beamsplit';
}

function showSize() {
  const canvas = at('screen').querySelector('canvas');
  at('size').textContent = canvas && canvas.width ? `${canvas.width} × ${canvas.height}` : '';
}

// noVNC says nothing when the guest changes its mode: the canvas does.
new MutationObserver(showSize).observe(at('screen'), {
  subtree: true, childList: true, attributes: true, attributeFilter: ['width', 'height'],
});

function again() {
  show('connecting', 'Reconnecting');
  clearTimeout(timer);
  timer = setTimeout(connect, wait);
  wait = Math.min(wait * 2, LAST_WAIT);
}

function notices(status, head) {
  const shown = status.heads[head];
  if (status.missing) return status.missing;
  if (status.connected && !shown) return `There is no screen ${head + 1}.`;
  if (shown?.too_large) return 'The guest’s screen is too large to be shown here.';
  return null;
}

async function connect() {
  let status;
  let RFB;
  try {
    status = await fetchStatus();
    if (!status.missing) RFB = (await import('./novnc/core/rfb.js')).default;
  } catch (error) {
    console.info('Not yet:', error.message);
    again();
    return;
  }
  const head = headOf(status);
  showName(status.name);
  showHeads(status);
  notice(notices(status, head));
  if (!RFB) {
    show('missing', 'noVNC is missing');
    return;
  }
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  const path = location.pathname.replace(/[^/]*$/, '');
  rfb = new RFB(at('screen'), `${scheme}://${location.host}${path}screen?head=${head}&cursor=drawn`);
  rfb.viewOnly = true;
  rfb.scaleViewport = remember.scale;
  rfb.background = 'transparent';
  rfb.addEventListener('connect', () => {
    wait = FIRST_WAIT;
    show('connected', 'Connected');
    showSize();
    // What the viewer knows of the heads it may have learnt only now.
    fetchStatus().then((status) => { showHeads(status); notice(notices(status, head)); }).catch(() => {});
  });
  rfb.addEventListener('desktopname', (event) => showName(event.detail.name));
  rfb.addEventListener('disconnect', () => { rfb = null; again(); });
}

at('scale').addEventListener('click', () => {
  remember.scale = !remember.scale;
  localStorage.setItem('beamsplit.scale', remember.scale ? 'yes' : 'no');
  showScale();
});

function showScale() {
  at('scale').setAttribute('aria-pressed', String(remember.scale));
  if (rfb) {
    rfb.scaleViewport = remember.scale;
    rfb.clipViewport = false;
  }
}

at('full').addEventListener('click', () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.();
});

// Somebody who comes back to the page does not want to wait.
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && !rfb && timer) {
    wait = FIRST_WAIT;
    clearTimeout(timer);
    connect();
  }
});

showScale();
connect();
