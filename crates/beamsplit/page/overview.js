// All vGPUs of a host at a glance. It asks and never assumes: what is drawn is what the last answer said.

const PERIOD = 1000; // ms from one look at the numbers to the next
const PICTURES = 2000; // ms from one look at a screen to the next
const COLOURS = ["#6ea8ff", "#58c48a", "#e0b15a", "#c792ea", "#5ccfe6", "#f28779", "#a3be8c", "#d4bfff"];

const $ = (id) => document.getElementById(id);
const cards = new Map(); // uuid -> what is known of a vGPU, see card()
let token = takeToken();
let asking = null;

/** The token behind `#` of the address, which it is taken out of, or the one that this tab knows. */
function takeToken() {
  const said = new URLSearchParams(location.hash.slice(1)).get("token");
  if (said) {
    sessionStorage.setItem("token", said);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return said ?? sessionStorage.getItem("token");
}

/** Asks the manager, which waits for a device to start or stop. Throws what it said when it refused. */
async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const signal = AbortSignal.timeout(options.method === "POST" ? 70_000 : 10_000);
  const answer = await fetch(path, { ...options, headers, cache: "no-store", signal });
  if (answer.status === 401) {
    await askForToken(token !== null);
    return ask(path, options);
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw Object.assign(new Error(said?.error ?? `The manager answered ${answer.status}`), { status: answer.status });
}

/** One dialog, however many requests were refused. */
function askForToken(wrong) {
  asking ??= new Promise((resolve) => {
    $("wrong").hidden = !wrong;
    $("token").value = "";
    $("ask").showModal();
    $("ask").onclose = async () => {
      token = $("token").value;
      sessionStorage.setItem("token", token);
      asking = null;
      // Another token may allow something else.
      if (document.body.dataset.state !== "connecting") await right().catch(() => {});
      resolve();
    };
  });
  return asking;
}
// Without a token there is nothing to see behind it.
$("ask").oncancel = (event) => event.preventDefault();

async function right() {
  document.body.dataset.right = (await (await ask("v1/session")).json()).right;
}

const units = ["B", "KiB", "MiB", "GiB", "TiB"];
function bytes(count) {
  const power = count > 0 ? Math.min(Math.floor(Math.log2(count) / 10), units.length - 1) : 0;
  const number = count / 1024 ** power;
  return `${Number.isInteger(number) ? number : number.toFixed(1)} ${units[power]}`;
}
const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.095 ? 1 : 0)} %`;
/** The same for a style, which knows no space before the sign. */
const length = (share) => `${(Math.min(share, 1) * 100).toFixed(2)}%`;
const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const set = (element, name, value) => { if (element.getAttribute(name) !== value) element.setAttribute(name, value); };

const label = (vgpu) => vgpu.name || vgpu.uuid.slice(0, 8);
/** Its device is there, and its console goes on. */
const lives = (vgpu) => vgpu.state === "running" || vgpu.state === "held";
/** It was given memory: from before its device is started until that is gone. */
const holds = (vgpu) => vgpu.share != null;
const kinds = {
  all: () => true,
  on: (vgpu) => vgpu.state !== "defined" && vgpu.state !== "failed",
  bad: (vgpu) => vgpu.state === "failed" || vgpu.state === "held" || vgpu.problem != null,
  off: (vgpu) => vgpu.state === "defined" || vgpu.state === "failed",
};
const byName = new Intl.Collator(undefined, { numeric: true });
const inOrder = (one, other) => byName.compare(label(one), label(other)) || (one.uuid < other.uuid ? -1 : 1);

const PARTS = ["shot", "dark", "name", "chip", "what", "used", "due", "time", "kept", "memory", "why", "open", "start", "stop"];

function card(vgpu) {
  let known = cards.get(vgpu.uuid);
  if (!known) {
    const element = $("vgpu").content.firstElementChild.cloneNode(true);
    element.dataset.uuid = vgpu.uuid;
    const parts = Object.fromEntries(PARTS.map((name) => [name, element.querySelector(`.${name}`)]));
    parts.image = element.querySelector("img");
    parts.start.onclick = () => command(vgpu.uuid, "start");
    parts.stop.onclick = () => stop(vgpu.uuid);
    known = { element, parts, used: null, at: 0, share: 0, state: null, busy: false, visible: false };
    cards.set(vgpu.uuid, known);
    watcher.observe(element);
  }
  known.vgpu = vgpu;
  return known;
}

/** The share of the GPU's time that was used since the last look. */
function share(known, now) {
  const used = known.vgpu.share?.used_ns ?? null;
  if (used !== null && known.used !== null && used >= known.used && now > known.at) {
    const fresh = (used - known.used) / ((now - known.at) * 1e6);
    // Looks are not taken evenly: half of the old keeps the bar from jumping.
    known.share = (known.share + Math.min(fresh, 99)) / 2;
  } else if (used === null) {
    known.share = 0;
  }
  [known.used, known.at] = [used, now];
}

function draw(known, total) {
  const { element, parts, vgpu } = known;
  const { state } = vgpu;
  const name = label(vgpu);
  if (known.state !== null && known.state !== state) write($("news"), `${name} is ${state}`);
  known.state = state;
  set(element, "data-state", state);
  set(element, "aria-label", `${name}, ${state}`);
  write(parts.name, name);
  set(parts.name, "title", vgpu.uuid);
  write(parts.chip, state);
  const heads = vgpu.heads?.map((mode) => mode.split("@")[0]).join(", ");
  write(parts.what, [vgpu.type, vgpu.persistent === false && "transient", heads].filter(Boolean).join(" · "));
  set(parts.what, "title", vgpu.pid ? `${parts.what.textContent} · process ${vgpu.pid}` : parts.what.textContent);

  const due = Math.min((vgpu.share?.weight ?? 0) / (total.weights.get(vgpu.gpu) || 1), 1);
  // What draws in 2D alone has no share of the GPU's time.
  const timed = state === "running" && known.used !== null;
  parts.used.style.width = length(timed ? known.share : 0);
  parts.due.style.left = `min(${length(due)}, 100% - 2px)`;
  parts.due.hidden = !timed || due === 1;
  set(parts.due, "title", `Its share beside those that run: ${percent(due)}`);
  write(parts.time, timed ? percent(known.share) : "–");
  const memory = total.memory.get(vgpu.gpu) || vgpu.memory || 1;
  parts.kept.style.width = length(holds(vgpu) ? vgpu.memory / memory : 0);
  write(parts.memory, vgpu.memory ? bytes(vgpu.memory) : "–");

  const again = vgpu.retry_ms != null && `It is started again in ${Math.ceil(vgpu.retry_ms / 1000)} s`;
  const why = [vgpu.why, vgpu.last && `Last command: ${vgpu.last}`, vgpu.problem, again].filter(Boolean).join(". ");
  parts.why.hidden = !why;
  write(parts.why, why);

  const console = lives(vgpu) ? vgpu.console : null;
  for (const link of [parts.shot, parts.open]) {
    if (console) set(link, "href", console); else link.removeAttribute("href");
  }
  set(parts.image, "alt", `Screen of ${name}`);
  parts.open.hidden = !console;
  set(parts.open, "aria-label", `Console of ${name}`);
  const verb = state === "held" ? "Release" : "Start";
  parts.start.hidden = !["defined", "failed", "held"].includes(state);
  parts.start.disabled = known.busy;
  write(parts.start, verb);
  set(parts.start, "aria-label", `${verb} ${name}`);
  // What is to be started again keeps its memory meanwhile.
  parts.stop.hidden = !holds(vgpu);
  parts.stop.disabled = known.busy || state === "stopping";
  set(parts.stop, "aria-label", `Stop ${name}`);
  if (!lives(vgpu)) write(parts.dark, { starting: "Starting", stopping: "Stopping" }[state] ?? "Off");
  // What was there before somebody turned it off is nobody's business any more.
  if (state === "defined") forget(parts.image);
}

function forget(image) {
  if (!image.hasAttribute("src")) return;
  URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
}

function drawGpus(gpus, vgpus) {
  const room = $("gpus");
  const there = new Map([...room.children].map((element) => [element.dataset.id, element]));
  for (const gpu of gpus) {
    let element = there.get(gpu.id);
    if (!element) {
      element = $("gpu").content.firstElementChild.cloneNode(true);
      element.dataset.id = gpu.id;
      room.append(element);
    }
    there.delete(gpu.id);
    write(element.querySelector(".name"), gpu.name);
    write(element.querySelector(".id"), gpu.id);
    const holders = vgpus.filter((vgpu) => vgpu.gpu === gpu.id && holds(vgpu));
    const kept = holders.reduce((sum, vgpu) => sum + vgpu.memory, 0);
    meter(element.querySelector(".memory"), "Memory", holders.map((vgpu) => [vgpu, vgpu.memory / gpu.memory]),
      `${bytes(Math.max(gpu.memory - kept, 0))} of ${bytes(gpu.memory)} free`);
    const shares = holders.map((vgpu) => [vgpu, cards.get(vgpu.uuid)?.share ?? 0]).filter(([, part]) => part > 0.001);
    const busy = shares.reduce((sum, [, part]) => sum + part, 0);
    // A software GPU has as many seconds a second as the host has processors: what is used is cut among who uses it.
    const scale = Math.max(busy, 1);
    meter(element.querySelector(".time"), "Time", shares.map(([vgpu, part]) => [vgpu, part / scale]), `${percent(busy)} used`);
  }
  for (const element of there.values()) element.remove();
}

/** A bar that is cut among vGPUs; each has a colour of its own wherever it is seen. */
function meter(bar, what, parts, rest) {
  const there = new Map([...bar.children].map((element) => [element.dataset.uuid, element]));
  const width = bar.clientWidth;
  let after = null;
  const place = (id) => {
    const element = there.get(id) ?? document.createElement("span");
    there.delete(id);
    const next = after ? after.nextElementSibling : bar.firstElementChild;
    if (next !== element) bar.insertBefore(element, next);
    after = element;
    return element;
  };
  for (const [vgpu, part] of parts) {
    const element = place(vgpu.uuid);
    element.dataset.uuid = vgpu.uuid;
    element.style.width = length(part);
    element.style.background = COLOURS[[...vgpu.uuid].reduce((sum, letter) => sum * 31 + letter.charCodeAt(0) >>> 0, 7) % COLOURS.length];
    // A name of two letters and dots names nobody.
    write(element, part * width > 54 ? label(vgpu) : "");
    set(element, "title", `${label(vgpu)}: ${percent(part)}`);
  }
  const element = place("rest");
  element.dataset.uuid = element.className = "rest";
  write(element, rest);
  for (const gone of there.values()) gone.remove();
  set(bar, "aria-label", `${what}: ${[rest, ...parts.map(([vgpu, part]) => `${label(vgpu)} ${percent(part)}`)].join(", ")}`);
}

const which = () => document.querySelector("#which :checked").value;

function matches(vgpu, words) {
  const text = `${vgpu.name ?? ""} ${vgpu.uuid} ${vgpu.type} ${vgpu.state} ${vgpu.gpu}`.toLowerCase();
  return kinds[which()](vgpu) && words.every((word) => text.includes(word));
}

/** Shows those that are meant; of a host with one vGPU or none nothing has to be chosen. */
function choose() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const all = [...cards.values()];
  for (const known of all) known.element.hidden = !matches(known.vgpu, words);
  for (const [kind, is] of Object.entries(kinds)) {
    const count = String(all.filter((known) => is(known.vgpu)).length);
    write($(kind), count);
    $(kind).dataset.count = count;
  }
  $("none").hidden = all.length > 0;
  $("nothing").hidden = all.length === 0 || all.some((known) => !known.element.hidden);
  return Number($("bad").dataset.count);
}

let last = 0; // Answers may overtake each other: an older one is thrown away.
async function look() {
  const number = ++last;
  const [{ gpus }, { vgpus, host }] = await Promise.all(
    ["v1/gpus", "v1/vgpus"].map(async (path) => (await ask(path)).json()));
  if (number !== last) return;
  const now = performance.now();
  const total = { memory: new Map(gpus.map((gpu) => [gpu.id, gpu.memory])), weights: new Map() };
  for (const vgpu of vgpus.filter((vgpu) => vgpu.state === "running" && vgpu.share?.used_ns != null)) {
    total.weights.set(vgpu.gpu, (total.weights.get(vgpu.gpu) ?? 0) + (vgpu.share?.weight ?? 0));
  }
  const gone = new Set(cards.keys());
  let after = null;
  for (const vgpu of vgpus.sort(inOrder)) {
    const known = card(vgpu);
    gone.delete(vgpu.uuid);
    share(known, now);
    draw(known, total);
    // Only what is in the wrong place is moved: a button under a finger stays there.
    const place = after ? after.nextElementSibling : $("vgpus").firstElementChild;
    if (place !== known.element) $("vgpus").insertBefore(known.element, place);
    after = known.element;
  }
  for (const uuid of gone) {
    const { element, parts } = cards.get(uuid);
    watcher.unobserve(element);
    forget(parts.image);
    element.remove();
    cards.delete(uuid);
  }
  drawGpus(gpus, vgpus);
  const bad = choose();
  const title = host ? `Beamsplit on ${host}` : "Beamsplit";
  write($("host"), title);
  document.title = bad > 0 ? `(${bad}) ${title}` : title;
}

async function picture(known) {
  const { parts, vgpu } = known;
  const { image } = parts;
  try {
    const answer = await ask(`v1/vgpus/${vgpu.uuid}/screenshot?width=480`);
    const url = URL.createObjectURL(await answer.blob());
    const old = image.src;
    image.src = url;
    await image.decode().catch(() => {});
    if (old) URL.revokeObjectURL(old);
  } catch (error) {
    if (error.status !== 404) return; // The numbers say it, when the manager is gone.
    forget(image);
    write(parts.dark, "No picture yet");
  }
}

// What nobody sees is not asked for.
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const known = cards.get(target.dataset.uuid);
    if (known) known.visible = isIntersecting;
  }
});

async function pictures() {
  if (document.visibilityState === "visible") {
    for (const known of [...cards.values()]) {
      if (known.visible && lives(known.vgpu) && !known.element.hidden) await picture(known);
    }
  }
  setTimeout(pictures, PICTURES);
}

async function command(uuid, verb) {
  const known = cards.get(uuid);
  known.busy = true;
  known.parts.start.disabled = known.parts.stop.disabled = true;
  try {
    await ask(`v1/vgpus/${uuid}/${verb}`, { method: "POST" });
  } catch (error) {
    toast(`${label(known.vgpu)}: ${error.message}`);
  }
  known.busy = false;
  await look().catch(() => {});
}

function stop(uuid) {
  const { vgpu } = cards.get(uuid);
  if (!lives(vgpu)) return command(uuid, "stop");
  write($("question"), `A VM that uses ${label(vgpu)} loses its screen, and does not get it back while it runs.`);
  $("sure").onclose = () => { if ($("sure").returnValue === "yes") command(uuid, "stop"); };
  $("sure").returnValue = "no";
  $("sure").showModal();
}

let silence = 0;
function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(silence);
  silence = setTimeout(() => { $("toast").hidden = true; }, 10_000);
}
$("toast").onclick = () => { $("toast").hidden = true; };

async function turn() {
  try {
    if (document.visibilityState === "visible") {
      await look();
      document.body.dataset.state = "connected";
      write($("state"), "Connected");
    }
  } catch (error) {
    document.body.dataset.state = "missing";
    write($("state"), error.status ? error.message : "The manager does not answer; what is shown is old");
  }
  setTimeout(turn, PERIOD);
}

async function begin() {
  try {
    await right();
  } catch (error) {
    document.body.dataset.state = "missing";
    write($("state"), error.status ? error.message : "The manager does not answer");
    // Commands are offered when it is known that they may be given.
    setTimeout(begin, 3000);
    return;
  }
  await turn();
  pictures();
}

$("filter").oninput = choose;
$("which").onchange = choose;
$("show-all").onclick = () => {
  $("filter").value = "";
  document.querySelector("#which [value=all]").checked = true;
  choose();
  $("filter").focus();
};
document.onkeydown = (event) => {
  const typing = event.target instanceof HTMLInputElement && event.target.type !== "radio";
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  $("filter").select();
  $("filter").focus();
};
document.onvisibilitychange = () => { if (document.visibilityState === "visible") look().catch(() => {}); };
begin();
