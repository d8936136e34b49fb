// All vGPUs of a host at a glance. It asks and never assumes: what is drawn is what the last answer said.

const PERIOD = 1000; // ms from one look at the numbers to the next
const PICTURES = 2000; // ms from one look at a screen to the next
const COLOURS = ["#6ea8ff", "#58c48a", "#e0b15a", "#c792ea", "#5ccfe6", "#f28779", "#a3be8c", "#d4bfff"];

const $ = (id) => document.getElementById(id);
const cards = new Map(); // uuid -> { element, seen, used, at, shown }
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
    $("ask").onclose = () => {
      token = $("token").value;
      sessionStorage.setItem("token", token);
      asking = null;
      resolve();
    };
  });
  return asking;
}
// Without a token there is nothing to see behind it.
$("ask").oncancel = (event) => event.preventDefault();

const units = ["B", "KiB", "MiB", "GiB", "TiB"];
function bytes(count) {
  const power = count > 0 ? Math.min(Math.floor(Math.log2(count) / 10), units.length - 1) : 0;
  const number = count / 1024 ** power;
  return `${Number.isInteger(number) ? number : number.toFixed(1)} ${units[power]}`;
}
const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.095 ? 1 : 0)} %`;
const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

function card(vgpu) {
  let known = cards.get(vgpu.uuid);
  if (!known) {
    const element = $("vgpu").content.firstElementChild.cloneNode(true);
    element.dataset.uuid = vgpu.uuid;
    element.querySelector(".start").onclick = () => command(vgpu.uuid, "start");
    element.querySelector(".stop").onclick = () => stop(vgpu.uuid);
    known = { element, used: null, at: 0, share: 0, picture: 0 };
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

const label = (vgpu) => vgpu.name || vgpu.uuid.slice(0, 8);

function draw(known, total) {
  const { element, vgpu } = known;
  const part = (name) => element.querySelector(`.${name}`);
  const state = vgpu.state;
  element.dataset.state = state;
  write(part("name"), label(vgpu));
  part("name").title = vgpu.uuid;
  write(part("chip"), state);
  const facts = [vgpu.type, ...(vgpu.persistent === false ? ["transient"] : []), ...(vgpu.pid ? [`pid ${vgpu.pid}`] : [])];
  write(part("what"), facts.join(" · "));
  const weights = total.weights.get(vgpu.gpu) || 1;
  const due = (vgpu.share?.weight ?? 0) / weights;
  part("used").style.width = percent(Math.min(known.share, 1));
  part("due").style.left = `min(${percent(Math.min(due, 1))}, calc(100% - 2px))`;
  // What draws in 2D alone has no share of the GPU's time.
  const timed = state === "running" && known.used !== null;
  part("due").hidden = !timed;
  write(part("time"), timed ? percent(known.share) : "–");
  const memory = total.memory.get(vgpu.gpu) || vgpu.memory || 1;
  part("kept").style.width = percent(Math.min(vgpu.memory / memory, 1));
  write(part("memory"), bytes(vgpu.memory));
  const why = [vgpu.why, vgpu.last && `Last command: ${vgpu.last}`].filter(Boolean).join(". ");
  part("why").hidden = !why;
  write(part("why"), why);
  const console = state === "running" ? vgpu.console : null;
  for (const link of [part("shot"), part("open")]) {
    if (console) link.href = console; else link.removeAttribute("href");
    link.target = "_blank";
  }
  part("shot").setAttribute("aria-label", console ? `Open the console of ${label(vgpu)}` : `Screen of ${label(vgpu)}`);
  part("open").hidden = !console;
  part("start").hidden = state === "running" || state === "starting" || state === "stopping";
  write(part("start"), state === "held" ? "Release" : "Start");
  part("stop").hidden = state === "defined" || state === "failed";
  part("stop").disabled = state === "stopping";
  if (state !== "running") write(part("dark"), state === "starting" ? "Starting" : "Off");
}

function drawGpus(gpus, vgpus) {
  const room = $("gpus");
  const there = new Map([...room.children].map((element) => [element.dataset.id, element]));
  for (const gpu of gpus) {
    const element = there.get(gpu.id) ?? $("gpu").content.firstElementChild.cloneNode(true);
    there.delete(gpu.id);
    element.dataset.id = gpu.id;
    write(element.querySelector(".name"), gpu.name);
    write(element.querySelector(".id"), gpu.id);
    const holders = vgpus.filter((vgpu) => vgpu.gpu === gpu.id && !["defined", "failed"].includes(vgpu.state));
    const kept = holders.reduce((sum, vgpu) => sum + vgpu.memory, 0);
    meter(element.querySelector(".memory"), holders.map((vgpu) => [vgpu, vgpu.memory / gpu.memory]),
      `${bytes(Math.max(gpu.memory - kept, 0))} of ${bytes(gpu.memory)} free`);
    const shares = holders.map((vgpu) => [vgpu, cards.get(vgpu.uuid)?.share ?? 0]).filter(([, part]) => part > 0.001);
    const busy = shares.reduce((sum, [, part]) => sum + part, 0);
    // A software GPU has as many seconds a second as the host has processors: what is used is cut among who uses it.
    const scale = Math.max(busy, 1);
    meter(element.querySelector(".time"), shares.map(([vgpu, part]) => [vgpu, part / scale]), `${percent(busy)} of its time used`);
    room.append(element);
  }
  for (const element of there.values()) element.remove();
}

/** A bar that is cut among vGPUs; each has a colour of its own wherever it is seen. */
function meter(bar, parts, rest) {
  bar.replaceChildren(...parts.map(([vgpu, part]) => {
    const element = document.createElement("span");
    element.style.width = percent(Math.min(part, 1));
    element.style.background = COLOURS[[...vgpu.uuid].reduce((sum, letter) => sum * 31 + letter.charCodeAt(0) >>> 0, 7) % COLOURS.length];
    element.textContent = label(vgpu);
    element.title = `${label(vgpu)}: ${percent(part)}`;
    return element;
  }));
  const element = document.createElement("span");
  element.className = "rest";
  element.textContent = rest;
  bar.append(element);
  bar.setAttribute("aria-label", rest);
}

function matches(vgpu, words) {
  const text = `${vgpu.name ?? ""} ${vgpu.uuid} ${vgpu.type} ${vgpu.state} ${vgpu.gpu}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

async function look() {
  const [{ gpus }, { vgpus, host }] = await Promise.all(
    ["v1/gpus", "v1/vgpus"].map(async (path) => (await ask(path)).json()));
  const now = performance.now();
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const total = { memory: new Map(gpus.map((gpu) => [gpu.id, gpu.memory])), weights: new Map() };
  for (const vgpu of vgpus.filter((vgpu) => vgpu.state === "running" && vgpu.share?.used_ns != null)) {
    total.weights.set(vgpu.gpu, (total.weights.get(vgpu.gpu) ?? 0) + (vgpu.share?.weight ?? 0));
  }
  const gone = new Set(cards.keys());
  let after = null;
  for (const vgpu of vgpus) {
    const known = card(vgpu);
    gone.delete(vgpu.uuid);
    share(known, now);
    draw(known, total);
    known.element.hidden = !matches(vgpu, words);
    // Only what is in the wrong place is moved: a button under a finger stays there.
    const place = after ? after.nextElementSibling : $("vgpus").firstElementChild;
    if (place !== known.element) $("vgpus").insertBefore(known.element, place);
    after = known.element;
  }
  for (const uuid of gone) {
    const { element } = cards.get(uuid);
    watcher.unobserve(element);
    URL.revokeObjectURL(element.querySelector("img").src);
    element.remove();
    cards.delete(uuid);
  }
  drawGpus(gpus, vgpus);
  $("none").hidden = vgpus.length > 0;
  write($("host"), host ? `Beamsplit on ${host}` : "Beamsplit");
  const running = vgpus.filter((vgpu) => vgpu.state === "running").length;
  write($("count"), `${running} of ${vgpus.length} running`);
}

async function picture(known) {
  const { element, vgpu } = known;
  const image = element.querySelector("img");
  try {
    const answer = await ask(`v1/vgpus/${vgpu.uuid}/screenshot?width=480`);
    const url = URL.createObjectURL(await answer.blob());
    const old = image.src;
    image.src = url;
    await image.decode().catch(() => {});
    if (old) URL.revokeObjectURL(old);
  } catch (error) {
    if (error.status !== 404) return; // The numbers say it, when the manager is gone.
    URL.revokeObjectURL(image.src);
    image.removeAttribute("src");
    write(element.querySelector(".dark"), "No picture yet");
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
      if (known.visible && known.vgpu.state === "running" && !known.element.hidden) await picture(known);
    }
  }
  setTimeout(pictures, PICTURES);
}

async function command(uuid, verb) {
  try {
    await ask(`v1/vgpus/${uuid}/${verb}`, { method: "POST" });
    await look();
  } catch (error) {
    toast(error.message);
  }
}

function stop(uuid) {
  const { vgpu } = cards.get(uuid);
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
  silence = setTimeout(() => { $("toast").hidden = true; }, 8000);
}

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
    document.body.dataset.right = (await (await ask("v1/session")).json()).right;
  } catch {
    // The turns say what is wrong; commands are offered when it is known that they may be given.
    setTimeout(begin, 3000);
    return;
  }
  await turn();
  pictures();
}
$("filter").oninput = () => look().catch(() => {});
document.onvisibilitychange = () => { if (document.visibilityState === "visible") look().catch(() => {}); };
begin();
