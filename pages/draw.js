"use strict";
const MAX_BYTES = 16 * 2 ** 20, MAX_SIDE = 2048;  // as in pages/server.py and pages/runs.py
const MIN_SIDE = 16;
const element = id => document.getElementById(id);
const canvas = element("canvas"), hatch = element("hatch"), output = element("output"), stage = element("stage");
const mask = document.createElement("canvas");  // the hole, white; hatch shows it
const pixels = canvas.getContext("2d", { willReadFrequently: true });
const holes = mask.getContext("2d", { willReadFrequently: true });

function make(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}
const blank = (width, height) => make("canvas", { width, height });
const context = canvas => canvas.getContext("2d", { willReadFrequently: true });
const png = source => new Promise(resolve => source.toBlob(resolve, "image/png"));
const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;
const hex = color => "#" + color.map(value => value.toString(16).padStart(2, "0")).join("");
const apart = (one, other) => one.reduce((sum, value, i) => sum + Math.abs(value - other[i]), 0);
const within = (value, least, most) => Math.min(most, Math.max(least, value));

let runs = [], run = null, site = null;
let tool = "rectangle", color = [0, 0, 0], seed = 0, noise = true;
const sizes = {};  // of the brush, for each kind of drawing

// ---- Messages

let fading;
function say(text, note = false) {
  clearTimeout(fading);
  element("toast").textContent = text;
  element("toast").className = note ? "note" : "";
  element("toast").hidden = !text;
  if (text) fading = setTimeout(() => say(""), 9000);
}
element("toast").onclick = () => say("");

// Runs an action; what goes wrong in it becomes a message.
async function attempt(action) {
  try { await action(); } catch (error) { say(error.message); }
}

const SILENT = "the server does not answer; start it again";
async function request(path, options) {
  if (location.protocol === "file:") throw new Error("browsers do not run this page from a file; serve its folder: python -m http.server");
  const response = await fetch(path, options).catch(() => { throw new Error(SILENT); });
  if (!response.ok) throw new Error(site ? `${path} is missing on this site` : await response.text());
  return response;
}

// ---- The drawing and its history. Runs with the same kind of input share their drawing.

const drawings = new Map();
let drawing = null;
const state = () => drawing?.states[drawing.at];
const layer = () => run.kind === "mask" ? holes : pixels;

function resize(width, height) {
  if (canvas.width !== width || canvas.height !== height) {
    for (const one of [canvas, mask, hatch]) [one.width, one.height] = [width, height];
    look();
  }
  document.body.style.setProperty("--ratio", width / height);
  canvas.setAttribute("aria-label", `${run.kind === "photo" ? "photo" : "drawing"}, ${width} × ${height} px`);
}

function commit(empty = false) {
  const { width, height } = canvas;
  const most = Math.max(10, Math.min(100, 4e7 / (width * height)));
  drawing.states.splice(drawing.at + 1);
  drawing.states.push({ empty, image: pixels.getImageData(0, 0, width, height),
    mask: run.kind === "mask" ? holes.getImageData(0, 0, width, height) : null });
  if (drawing.states.length > most) drawing.states.shift();
  drawing.at = drawing.states.length - 1;
  changed();
}

function restore() {
  const { image, mask } = state();
  resize(image.width, image.height);
  pixels.putImageData(image, 0, 0);
  if (mask) holes.putImageData(mask, 0, 0);
  changed();
}

function step(by) {
  if (stroke || camera || !drawing?.states[drawing.at + by]) return;
  drawing.at += by;
  restore();
}

function changed() {
  element("empty").hidden = !state().empty;
  for (const [id, by] of [["undo", -1], ["redo", 1]]) element(id).disabled = !drawing.states[drawing.at + by];
  about();
  remember();
  update();
}

// The color of an empty drawing, and of the eraser.
const ground = () => Object.values(run.palette)[0] ?? [255, 255, 255];

function wipe() {
  if (run.kind === "mask") {
    holes.clearRect(0, 0, mask.width, mask.height);
  } else {
    resize(run.size, run.size);
    pixels.fillStyle = css(ground());
    pixels.fillRect(0, 0, canvas.width, canvas.height);
  }
  commit();
}

// The drawing survives a reload: one for each run, in the browser's storage.
const stored = name => `pix2pix ${location.pathname} ${name}`;
let remembering;
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(store, 400);
}
function store() {
  clearTimeout(remembering);
  if (!run || run.error || camera || stroke || state()?.empty !== false) return;
  try {
    localStorage.setItem(stored(run.name), asText());
    localStorage.setItem(stored(""), run.name);
  } catch { /* no storage, or it is full: the drawing lives as long as the page */ }
}
addEventListener("pagehide", store);
function recall(name) {
  try { return localStorage.getItem(stored(name)); } catch { return null; }
}

// ---- View: wheel and pinch zoom, the space bar or two fingers pan. Both sides show the same part.

const view = { zoom: 1, x: 0, y: 0 };  // x and y in % of the stage
function look(zoom = 1, x = 0, y = 0) {
  view.zoom = within(zoom, 1, 16);
  const least = 100 * (1 - view.zoom);
  Object.assign(view, { x: within(x, least, 0), y: within(y, least, 0) });
  for (const [name, value] of Object.entries(view)) document.body.style.setProperty(`--${name}`, value);
}

function zoomAt({ clientX, clientY }, by) {
  const rect = stage.getBoundingClientRect(), zoom = within(view.zoom * by, 1, 16), ratio = zoom / view.zoom;
  const [x, y] = [100 * (clientX - rect.left) / rect.width, 100 * (clientY - rect.top) / rect.height];
  look(zoom, x - (x - view.x) * ratio, y - (y - view.y) * ratio);
}

function pan(dx, dy) {
  const rect = stage.getBoundingClientRect();
  look(view.zoom, view.x + 100 * dx / rect.width, view.y + 100 * dy / rect.height);
}

stage.addEventListener("wheel", event => {
  if (!run || state()?.empty !== false) return;
  event.preventDefault();
  zoomAt(event, 2 ** (-within(event.deltaY, -100, 100) / 200));
}, { passive: false });

const fingers = new Map();  // touches, by id
function pinch(event) {
  const grip = () => {
    const [one, other] = [...fingers.values()], middle = axis => (one[axis] + other[axis]) / 2;
    return { clientX: middle("clientX"), clientY: middle("clientY"), apart: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1 };
  };
  const before = grip();
  fingers.set(event.pointerId, event);
  const after = grip();
  pan(after.clientX - before.clientX, after.clientY - before.clientY);
  zoomAt(after, after.apart / before.apart);
}

let spaced = false;  // the space bar is down
for (const type of ["keydown", "keyup"]) addEventListener(type, event => {
  if (event.key !== " " || !stage.matches(":hover") || event.target.closest?.("textarea, select")) return;
  event.preventDefault();  // it would press the button that has the focus
  spaced = type === "keydown";
  stage.classList.toggle("panning", spaced);
});

// ---- Shapes, without smoothing: a blend of two labels would be the color of a third

function area(x, y, width, height, erase) {
  if (erase && run.kind === "mask") return holes.clearRect(x, y, width, height);
  layer().fillStyle = run.kind === "mask" ? "#fff" : css(erase ? ground() : color);
  layer().fillRect(x, y, width, height);
}

function dot(x, y, erase) {
  const size = +element("size").value, r = size / 2;
  [x, y] = [x, y].map(value => size % 2 ? Math.floor(value) + 0.5 : Math.round(value));
  for (let row = Math.ceil(y - r - 0.5); row <= y + r - 0.5; row++) {
    const half = Math.sqrt(Math.max(0, r * r - (row + 0.5 - y) ** 2));
    const left = Math.ceil(x - half - 0.5), right = Math.floor(x + half - 0.5);
    if (right >= left) area(left, row, right - left + 1, 1, erase);
  }
}

function segment([x0, y0], [x1, y1], erase) {
  const steps = Math.ceil(Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1) / Math.max(1, element("size").value / 8));
  for (let i = 0; i <= steps; i++) dot(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps, erase);
}

function box([x0, y0], [x1, y1], erase) {
  const [left, right] = [x0, x1].map(Math.floor).sort((a, b) => a - b);
  const [top, bottom] = [y0, y1].map(Math.floor).sort((a, b) => a - b);
  area(left, top, right - left + 1, bottom - top + 1, erase);
}

// Replaces the colors near that of the place. Colors of a JPEG are not quite even.
function fill([x, y]) {
  const { width, height } = canvas, image = layer().getImageData(0, 0, width, height), data = image.data;
  const colors = Object.values(run.palette);
  const nearest = Math.min(...colors.flatMap((one, i) => colors.slice(i + 1).map(other => apart(one, other))));
  const limit = Math.min(40, nearest - 1);
  const start = Math.floor(y) * width + Math.floor(x), target = [...data.subarray(4 * start, 4 * start + 4)];
  const paint = run.kind === "mask" ? [255, 255, 255, 255] : [...color, 255];
  const seen = new Uint8Array(width * height), waiting = [start];
  seen[start] = 1;
  while (waiting.length) {
    const at = waiting.pop();
    if (apart(target, data.subarray(4 * at, 4 * at + 4)) > limit) continue;
    data.set(paint, 4 * at);
    const column = at % width, next = [at - width, at + width];
    if (column > 0) next.push(at - 1);
    if (column < width - 1) next.push(at + 1);
    for (const one of next) if (seen[one] === 0) {  // undefined outside
      seen[one] = 1;
      waiting.push(one);
    }
  }
  layer().putImageData(image, 0, 0);
}

// Draws the hole as stripes.
function stripe() {
  hatch.hidden = run.kind !== "mask" || state()?.empty !== false;
  if (hatch.hidden) return;
  const width = Math.max(2, Math.round(Math.max(canvas.width, canvas.height) / 64)), tile = blank(4 * width, 4 * width);
  const lines = context(tile), on = hatch.getContext("2d");
  lines.fillStyle = "#fff";
  lines.fillRect(0, 0, 4 * width, 4 * width);
  lines.strokeStyle = "#555";
  lines.lineWidth = width;
  for (const x of [-4, 0, 4]) {  // beyond the tile, so that tiles join
    lines.moveTo((x - 1) * width, 5 * width);
    lines.lineTo((x + 5) * width, -width);
  }
  lines.stroke();
  on.globalCompositeOperation = "copy";
  on.drawImage(mask, 0, 0);
  on.globalCompositeOperation = "source-in";
  on.fillStyle = on.createPattern(tile, "repeat");
  on.fillRect(0, 0, hatch.width, hatch.height);
}

// ---- Pointer: mouse, touch and pen

let stroke = null, dragging = null;
const drawable = () => run && !run.error && !camera && run.kind !== "photo" && state()?.empty === false;

function place(event) {
  const rect = canvas.getBoundingClientRect();
  return [(event.clientX - rect.left) * canvas.width / rect.width, (event.clientY - rect.top) * canvas.height / rect.height];
}
const inside = ([x, y]) => x >= 0 && y >= 0 && x < canvas.width && y < canvas.height;

function pick([x, y]) {
  const found = [...pixels.getImageData(x, y, 1, 1).data.subarray(0, 3)];
  const colors = Object.values(run.palette);
  choose(run.kind === "image" ? found : colors.reduce((best, one) => apart(one, found) < apart(best, found) ? one : best, colors[0] ?? color));
}

canvas.onpointerdown = event => {
  if (event.pointerType === "touch") fingers.set(event.pointerId, event);
  if (fingers.size > 1 || stroke) return cancel();  // a second finger zooms and pans
  if (spaced || event.button === 1) {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    dragging = event;
    return;
  }
  if (!drawable() || ![0, 2, 5].includes(event.button)) return;
  event.preventDefault();
  const at = place(event), erase = tool === "eraser" || event.button > 0;  // also a pen's other end
  if (event.altKey && run.kind !== "mask") return pick(at);
  if (tool === "fill" && !erase) {
    fill(at);
    return commit();
  }
  canvas.setPointerCapture(event.pointerId);
  stroke = { id: event.pointerId, shape: erase ? "brush" : tool, erase, from: at, last: at,
    base: layer().getImageData(0, 0, canvas.width, canvas.height) };
  extend(at, event.shiftKey);
  update();
};

function extend(at, straight) {
  const { shape, from, last, base, erase } = stroke;
  let [x, y] = at;
  if (shape === "brush") {
    segment(last, at, erase);
    stroke.last = at;
    return;
  }
  const [dx, dy] = [x - from[0], y - from[1]];
  if (straight && shape === "line") {  // in steps of 45 degrees
    const angle = Math.round(Math.atan2(dy, dx) / (Math.PI / 4)) * Math.PI / 4, length = Math.hypot(dx, dy);
    [x, y] = [from[0] + length * Math.cos(angle), from[1] + length * Math.sin(angle)];
  } else if (straight) {  // a square
    const side = Math.max(Math.abs(dx), Math.abs(dy));
    [x, y] = [from[0] + Math.sign(dx) * side, from[1] + Math.sign(dy) * side];
  }
  layer().putImageData(base, 0, 0);
  (shape === "line" ? segment : box)(from, [x, y], erase);
}

canvas.onpointermove = event => {
  ring(event);
  if (fingers.size > 1 && fingers.has(event.pointerId)) return pinch(event);
  if (event.pointerId === dragging?.pointerId) {
    pan(event.clientX - dragging.clientX, event.clientY - dragging.clientY);
    dragging = event;
    return;
  }
  if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event);
  if (event.pointerId !== stroke?.id) return;
  const coalesced = event.getCoalescedEvents?.() ?? [];
  const events = stroke.shape === "brush" && coalesced.length ? coalesced : [event];
  for (const one of events) extend(place(one), event.shiftKey);
  update();
};
canvas.onpointerup = event => {
  fingers.delete(event.pointerId);
  if (event.pointerId === dragging?.pointerId) dragging = null;
  if (event.pointerId !== stroke?.id) return;
  stroke = null;
  commit();
};
function cancel() {
  if (!stroke) return;
  layer().putImageData(stroke.base, 0, 0);
  stroke = null;
  update();
}
canvas.onpointercancel = event => {
  fingers.delete(event.pointerId);
  if (event.pointerId === stroke?.id) cancel();
};
canvas.onpointerleave = () => { element("ring").style.display = "none"; };
canvas.oncontextmenu = event => event.preventDefault();
// A quick stroke is no fling, during which the browser would swallow a tap on a button.
canvas.addEventListener("touchstart", event => event.preventDefault(), { passive: false });

function ring(event) {
  const sized = drawable() && !spaced && ["brush", "line", "eraser"].includes(tool) && event.pointerType !== "touch" && inside(place(event));
  const rect = stage.getBoundingClientRect(), style = element("ring").style;
  style.display = sized ? "block" : "none";
  style.left = `${event.clientX - rect.left}px`;
  style.top = `${event.clientY - rect.top}px`;
  style.width = style.height = `${element("size").value * canvas.getBoundingClientRect().width / canvas.width}px`;
}

// ---- The output follows while one draws: one request at a time, and then the newest drawing

let sending = false, wanted = null, waiting = null, answered = 0;
function update() {
  wanted = performance.now();
  waiting ??= setTimeout(send, 8);  // several changes at once are one
}

async function send() {
  waiting = null;
  stripe();
  const ready = camera ? camera.live : state()?.empty === false;
  if (sending || wanted === null || !ready || run.error) return;
  const since = wanted, from = run;
  wanted = null;
  sending = true;
  document.body.classList.add("busy");
  const slow = setInterval(() => { element("time").textContent = `${Math.round((performance.now() - since) / 1000)} s …`; }, 1000);
  try {
    const input = blank(canvas.width, canvas.height * (run.kind === "mask" ? 2 : 1)), on = context(input);
    on.drawImage(canvas, 0, 0);
    if (run.kind === "mask") {
      on.fillRect(0, canvas.height, canvas.width, canvas.height);
      on.drawImage(mask, 0, canvas.height);
    }
    const result = await (site ?? server).translate(run, input, seed, noise);
    if (run === from) {
      show(result);
      show(input, element("under"), input.height / (run.kind === "mask" ? 2 : 1));
      if (run.kind === "mask") element("under").getContext("2d").drawImage(hatch, 0, 0);
      const now = performance.now();
      element("time").textContent = camera ? `${(1000 / (now - answered)).toFixed(1)} images/s` : `${Math.round(now - since)} ms`;
      answered = now;
    }
  } catch (error) {
    if (wanted === null || camera) say(error.message);
    element("time").textContent = "";
    if (camera) leave();
  }
  clearInterval(slow);
  sending = false;
  if (wanted !== null) return send();
  document.body.classList.remove("busy");
}

function show(image, on = output, height = image.height) {
  [on.width, on.height] = [image.width, height];
  on.getContext("2d").drawImage(image, 0, 0);
}

const server = {
  async translate(run, input, seed, noise) {
    const path = `translate?run=${encodeURIComponent(run.name)}&seed=${seed}&noise=${+noise}`;
    return createImageBitmap(await (await request(path, { method: "POST", body: await png(input) })).blob());
  },
  // Decodes as evaluate.py does: 16 bits, TIFF, transparency on white. Also returns the size of the file's image.
  async read(file) {
    const answer = await request(`read?name=${encodeURIComponent(file.name || "the image")}`, { method: "POST", body: file });
    return { image: await createImageBitmap(await answer.blob()), original: answer.headers.get("Original-Size").split(" ").map(Number) };
  },
};

// ---- On a static site: the model in this browser, by onnxruntime-web

// Numbers in [0, 1) that follow from the seed (mulberry32).
function random(seed) {
  return () => {
    seed = seed + 0x6d2b79f5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

// Downloads files, with a progress bar by bytes. `sizes` are those of the files, in bytes.
async function download(sizes) {
  const bar = element("loading"), total = Object.values(sizes).reduce((sum, size) => sum + size, 0);
  let done = 0;
  bar.hidden = false;
  const contents = await Promise.all(Object.entries(sizes).map(async ([path, size]) => {
    const content = new Uint8Array(size), reader = (await request(path)).body.getReader();
    for (let at = 0, part; !(part = await reader.read()).done; at += part.value.length) {
      if (at + part.value.length > size) throw new Error(`${path} is not the file that belongs to this site`);
      content.set(part.value, at);
      done += part.value.length;
      bar.lastElementChild.value = done / total;
      bar.firstElementChild.textContent = `loading the model: ${(done / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB`;
    }
    return content;
  }));
  bar.hidden = true;
  return contents;
}

async function openModel({ script, integrity, sizes }) {
  const [model, wasmBinary] = await download(sizes);
  await new Promise((resolve, reject) => {
    const onerror = () => reject(new Error(`${script} cannot be loaded`));
    document.head.append(make("script", { src: script, integrity, onload: resolve, onerror }));
  });
  ort.env.logLevel = "error";
  Object.assign(ort.env.wasm, { proxy: true, wasmPaths: new URL("runtime/", document.baseURI).href, wasmBinary,
    numThreads: self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1 });
  return ort.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3 });
}

// Translates in this browser. One can draw while the model is loading.
function browser(runtime, { channels, multiple, dropout, noise: layers }) {
  const opening = openModel(runtime);
  opening.catch(error => say(error.message));
  const tensor = (values, shape) => new ort.Tensor("float32", values, [1, ...shape]);

  // The network: x, (channels, height, width) in [-1, 1] -> y likewise.
  async function network(x, width, height, seed, noise) {
    const session = await opening, feeds = { input: tensor(x, [channels, height, width]) };
    layers.forEach(([channels, halvings], k) => {
      const sides = [height, width].map(side => Math.ceil(side / multiple) * multiple >> halvings), draw = random(seed + k * 7919);
      const kept = new Float32Array(channels * sides[0] * sides[1]).map(() => noise ? (draw() < dropout ? 0 : 1 / (1 - dropout)) : 1);
      feeds[`noise_${k}`] = tensor(kept, [channels, ...sides]);
    });
    return (await session.run(feeds)).output.data;
  }

  return {
    async translate(run, input, seed, noise) {
      if (run.task === "colorization") return colorize(input, run.size, (...small) => network(...small, seed, noise));
      const masked = run.kind === "mask", { width } = input, height = input.height / (masked ? 2 : 1), area = width * height;
      const { data } = context(input).getImageData(0, 0, width, input.height);
      const hole = i => masked && data[4 * (area + i)] > 127;
      const x = new Float32Array(channels * area);
      for (let i = 0; i < area; i++) {
        const [red, green, blue] = hole(i) ? [255, 255, 255] : data.subarray(4 * i, 4 * i + 3);
        if (channels === 1) x[i] = (red * 19595 + green * 38470 + blue * 7471 + 32768 >> 16) / 127.5 - 1;
        else [x[i], x[area + i], x[2 * area + i]] = [red / 127.5 - 1, green / 127.5 - 1, blue / 127.5 - 1];
      }
      const y = await network(x, width, height, seed, noise);
      const image = new ImageData(width, height), green = y.length > area ? area : 0;
      for (let i = 0; i < area; i++) {
        const values = masked && !hole(i) ? data.subarray(4 * i, 4 * i + 3)
          : [y[i], y[green + i], y[2 * green + i]].map(value => Math.round((value + 1) * 127.5));
        image.data.set([...values, 255], 4 * i);
      }
      const result = blank(width, height);
      context(result).putImageData(image, 0, 0);
      return result;
    },
    async read(file) {
      const image = await createImageBitmap(file).catch(() => { throw new Error(`${file.name || "the image"} cannot be read as an image`); });
      const original = [image.width, image.height], scale = Math.min(1, MAX_SIDE / Math.max(...original));
      const flat = blank(...original.map(side => Math.max(1, Math.round(side * scale)))), on = context(flat);
      on.fillStyle = "#fff";
      on.fillRect(0, 0, flat.width, flat.height);
      on.drawImage(image, 0, 0, flat.width, flat.height);
      return { image: await createImageBitmap(flat), original };
    },
  };
}

// Colorization as in tasks/colorization.py: the network sees the lightness at the size of training, and its colors are
// enlarged. `input` is gray; `network` takes x, width and height.
async function colorize(input, size, network) {
  const { width, height } = input, scale = trainingScale(size, width, height);
  const small = scaled(input, Math.round(width * scale), Math.round(height * scale));
  const area = small.width * small.height;
  const reduced = context(small).getImageData(0, 0, small.width, small.height);
  const x = Float32Array.from({ length: area }, (_, i) => LIGHTNESS[reduced.data[4 * i]] / 50 - 1);
  const y = await network(x, small.width, small.height);
  // a and b become red and green, so that the canvas enlarges them.
  for (let i = 0; i < area; i++) reduced.data.set([(y[i] + 1) * 127.5, (y[area + i] + 1) * 127.5], 4 * i);
  context(small).putImageData(reduced, 0, 0);
  const result = scaled(small, width, height);
  const image = context(result).getImageData(0, 0, width, height), { data } = image;
  const grays = context(input).getImageData(0, 0, width, height).data;
  const ab = value => (value / 127.5 - 1) * 110;
  for (let i = 0; i < data.length; i += 4) paintLab(data, i, LIGHTNESS[grays[i]], ab(data[i]), ab(data[i + 1]));
  context(result).putImageData(image, 0, 0);
  return result;
}

// How much an image is scaled to the size of training: its shorter side to `size`, the longer to at most 4 times that.
const trainingScale = (size, width, height) => Math.min(size / Math.min(width, height), 4 * size / Math.max(width, height));

function scaled(image, width, height) {
  const result = blank(width, height), on = context(result);
  on.imageSmoothingQuality = "high";
  on.drawImage(image, 0, 0, width, height);
  return result;
}

// ---- Images: examples, files, clipboard

async function open(file) {
  if (!file) return;
  if (file.name?.endsWith(".json") || file.type === "application/json") return load(await file.text());
  if (file.size > MAX_BYTES) throw new Error(`${file.name} has ${Math.ceil(file.size / 2 ** 20)} MB; the limit is 16 MB`);
  let { image, original } = await (site ?? server).read(file);
  let note = "";
  const { width, height } = image;
  if (run.task === "pairs" && width === 2 * height) {
    const right = run.direction === "BtoA";
    image = await createImageBitmap(image, right ? height : 0, 0, height, height);
    original = [original[1], original[1]];
    note = `a side-by-side pair: its ${right ? "right" : "left"} half is the input`;
  }
  if (camera) leave();
  put(image, original, note);
}

// A drawing has hardly any pixels between black and white.
function isPhoto(image) {
  return share(image, ([red, green, blue]) => Math.max(red, green, blue) > 60 && Math.min(red, green, blue) < 195) > 0.2;
}

// The share of an image's pixels for which something holds.
function share(image, holds) {
  const small = blank(128, 128), on = context(small);
  on.imageSmoothingEnabled = false;
  on.drawImage(image, 0, 0, 128, 128);
  const { data } = on.getImageData(0, 0, 128, 128);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) count += holds(data.subarray(i, i + 3));
  return count / (128 * 128);
}

const square = () => ["labels", "edges"].includes(run.kind);

// The size at which an image of some size is drawn and translated.
function fitted(width, height) {
  if (square()) return [run.size, run.size];
  // A site has no resizing around its model, so that inpainting is done at the size of training.
  const scale = site && run.kind === "mask" ? trainingScale(run.size, width, height) : Math.min(1, run.longest / Math.max(width, height));
  return [width, height].map(side => Math.max(1, Math.round(side * scale)));
}

// Makes an image the drawing. `original` is its size in the file.
function put(image, original = [image.width, image.height], note = "") {
  const [width, height] = fitted(image.width, image.height), size = original.join("×");
  if (Math.min(...original) < MIN_SIDE || Math.min(width, height) < MIN_SIDE)
    throw new Error(`the image has ${size} px, too small or too narrow: sides must have ${MIN_SIDE} px or more${width < image.width ? ` after it is reduced to ${width}×${height}` : ""}`);
  if (run.factor > 1 && Math.max(...original) > run.longest)
    throw new Error(`${size} px are not enlarged here, ${run.longest} is the most; evaluate.py --input takes any size`);
  const lines = run.kind === "edges" && isPhoto(image);
  const foreign = run.kind === "labels" && share(image, pixel => Object.values(run.palette).some(one => apart(one, pixel) < 40)) < 0.6;
  resize(width, height);
  pixels.imageSmoothingEnabled = run.kind !== "labels";
  pixels.imageSmoothingQuality = "high";
  pixels.fillStyle = "#fff";
  pixels.fillRect(0, 0, width, height);
  pixels.drawImage(image, 0, 0, width, height);
  refine(lines);
  if (run.kind === "mask") {
    holes.clearRect(0, 0, width, height);
    holes.fillStyle = "#fff";
    holes.fillRect(Math.floor(width / 4), Math.floor(height / 4), Math.ceil(width / 2), Math.ceil(height / 2));
  }
  commit();
  const notes = [note, lines && "the edges of the photo",
    foreign && "the colors of this image are not those of the palette: this run expects a label map",
    !square() && width < original[0] && `reduced from ${size} to ${width}×${height} px`];
  say(notes.filter(Boolean).join("; "), true);
}

// Turns a photo on the canvas into the input of the run: its edges, or its lightness.
function refine(lines) {
  if (!lines && run.task !== "colorization") return;
  const image = pixels.getImageData(0, 0, canvas.width, canvas.height);
  (lines ? canny : gray)(image);
  pixels.putImageData(image, 0, 0);
}

// sRGB, 0 to 255 -> linear light, 0 to 1.
const LINEAR = Float32Array.from({ length: 256 }, (_, i) => i <= 10 ? i / 255 / 12.92 : ((i / 255 + 0.055) / 1.055) ** 2.4);

// Its inverse.
const encoded = light => 255 * (light <= 0.0031308 ? 12.92 * light : 1.055 * light ** (1 / 2.4) - 0.055);

// The lightness, L of Lab, of each gray.
const LIGHTNESS = LINEAR.map(light => light > 0.008856 ? 116 * Math.cbrt(light) - 16 : 903.3 * light);

// Gray with the lightness of each color, which is the input of colorization.
function gray({ data }) {
  for (let i = 0; i < data.length; i += 4) {
    const light = 0.2126 * LINEAR[data[i]] + 0.7152 * LINEAR[data[i + 1]] + 0.0722 * LINEAR[data[i + 2]];
    data.fill(Math.round(encoded(light)), i, i + 3);
  }
}

// Lab -> sRGB, as OpenCV computes it. Writes it into pixels at i; what is beyond sRGB is clipped.
function paintLab(pixels, i, lightness, a, b) {
  const linear = t => t > 6 / 29 ? t ** 3 : (t - 16 / 116) / 7.787;
  const root = lightness > 8 ? (lightness + 16) / 116 : 7.787 * lightness / 903.3 + 16 / 116;
  const x = 0.950456 * linear(root + a / 500), y = linear(root), z = 1.088754 * linear(root - b / 200);
  pixels[i] = encoded(3.240479 * x - 1.53715 * y - 0.498535 * z);
  pixels[i + 1] = encoded(-0.969256 * x + 1.875991 * y + 0.041556 * z);
  pixels[i + 2] = encoded(0.055648 * x - 0.204043 * y + 1.057311 * z);
}

// Black edges on white, as tasks/edges.py draws them: Canny's detector as in OpenCV, with thresholds 100 and 200.
function canny({ data, width, height }) {
  const count = width * height, mirror = (at, side) => at < 0 ? -at : at >= side ? 2 * side - 2 - at : at;
  const filter = (source, weights, dx, dy, border) => {
    const result = new Float32Array(count);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      let sum = 0;
      for (const k of [-1, 0, 1]) sum += weights[k + 1] * source[border(y + k * dy, height) * width + border(x + k * dx, width)];
      result[y * width + x] = sum;
    }
    return result;
  };
  const repeat = (at, side) => within(at, 0, side - 1);
  let light = new Float32Array(count).map((_, i) => Math.round((data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3));
  light = filter(filter(light, [1, 2, 1], 1, 0, mirror), [1, 2, 1], 0, 1, mirror).map(value => Math.floor(value / 16 + 0.5));
  const gx = filter(filter(light, [-1, 0, 1], 1, 0, repeat), [1, 2, 1], 0, 1, repeat);
  const gy = filter(filter(light, [1, 2, 1], 1, 0, repeat), [-1, 0, 1], 0, 1, repeat);
  const size = gx.map((value, i) => Math.abs(value) + Math.abs(gy[i]));
  const at = (x, y) => x < 0 || y < 0 || x >= width || y >= height ? 0 : size[y * width + x];
  const strength = new Uint8Array(count), strong = [];
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) {
    if (size[i] <= 100) continue;
    const [ax, ay] = [Math.abs(gx[i]), Math.abs(gy[i])], sign = gx[i] * gy[i] < 0 ? -1 : 1;
    const flat = ay < ax * 0.4142135623730951, steep = ay > ax * 2.414213562373095;
    const peak = flat ? size[i] > at(x - 1, y) && size[i] >= at(x + 1, y)
      : steep ? size[i] > at(x, y - 1) && size[i] >= at(x, y + 1)
      : size[i] > at(x - sign, y - 1) && size[i] > at(x + sign, y + 1);
    if (!peak) continue;
    strength[i] = size[i] > 200 ? 2 : 1;
    if (size[i] > 200) strong.push(i);
  }
  while (strong.length) {  // weak edges count beside strong ones
    const i = strong.pop(), x = i % width;
    for (const dy of [-width, 0, width]) for (const dx of [-1, 0, 1]) {
      if (x + dx < 0 || x + dx >= width || strength[i + dy + dx] !== 1) continue;
      strength[i + dy + dx] = 2;
      strong.push(i + dy + dx);
    }
  }
  for (let i = 0; i < count; i++) data.fill(strength[i] === 2 ? 0 : 255, 4 * i, 4 * i + 3);
}

const fetched = async url => createImageBitmap(await (await request(url)).blob());

element("empty").onclick = () => element("file").click();
element("file").onchange = event => {
  const [file] = event.target.files;
  attempt(() => open(file)).then(() => { event.target.value = ""; });
};
addEventListener("paste", event => {
  if (event.target.closest?.("textarea, input")) return;
  const file = event.clipboardData.files[0], text = event.clipboardData.getData("text");
  attempt(() => file ? open(file) : text.trim() ? load(text) : null);
});
addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  attempt(() => open(event.dataTransfer.files[0]));
});

// ---- The webcam: its frames become the input, mirrored, as fast as they are translated

let camera = null;
async function webcam() {
  if (camera) return take_photo();
  if (!navigator.mediaDevices) throw new Error("the webcam needs https or localhost");
  const stream = await navigator.mediaDevices.getUserMedia({ video: true }).catch(error => {
    throw new Error(`the webcam cannot be used: ${error.message}`);
  });
  cancel();
  // A hole is drawn on a photo that stands still, and enlarging takes seconds.
  camera = { stream, drawn: 0, live: run.kind !== "mask" && run.factor === 1, video: make("video", { srcObject: stream, muted: true, playsInline: true }) };
  await camera.video.play();
  cameraShown(true);
  element("empty").hidden = true;
  requestAnimationFrame(frame);
}

function cameraShown(on) {
  element("take").hidden = !on;
  element("webcam").setAttribute("aria-pressed", on);
  document.body.toggleAttribute("data-live", on);
  stage.classList.toggle("still", on || run.kind === "photo");
}

function frame(now) {
  if (!camera) return;
  const { video } = camera;
  let { videoWidth: width, videoHeight: height } = video;
  // The preview runs at 10 images per second while a translation needs the processor.
  if (width && !(sending && now - camera.drawn < 100)) {
    camera.drawn = now;
    const side = Math.min(width, height), crop = square() ? [(width - side) / 2, (height - side) / 2, side, side] : [0, 0, width, height];
    [width, height] = fitted(width, height);
    resize(width, height);
    if (run.kind === "mask") holes.clearRect(0, 0, width, height);
    pixels.save();
    pixels.scale(-1, 1);
    pixels.drawImage(video, ...crop, -width, 0, width, height);
    pixels.restore();
    refine(run.kind === "edges");
    update();
  }
  requestAnimationFrame(frame);
}

function stopCamera() {
  camera?.stream.getTracks().forEach(track => track.stop());
  camera = null;
  cameraShown(false);
}

// Stops the webcam and returns to the drawing.
function leave() {
  stopCamera();
  if (state()) restore();
}

function take_photo() {
  const photo = blank(canvas.width, canvas.height);
  photo.getContext("2d").drawImage(canvas, 0, 0);
  stopCamera();
  attempt(() => put(photo));
}
element("take").onclick = take_photo;
document.addEventListener("visibilitychange", () => {
  if (!document.hidden || !camera) return;
  leave();
  say("the webcam stopped, as the page was hidden", true);
});

// ---- Saving, and the drawing as text

function download_as(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: `${run.name.replace(/[^\w.-]+/g, "_")}_${name}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
const save = async (source, name) => download_as(await png(source), `${name}.png`);

// The hole as evaluate.py --mask takes it: white on black.
function holeImage() {
  const image = blank(mask.width, mask.height), on = context(image);
  on.fillRect(0, 0, mask.width, mask.height);
  on.drawImage(mask, 0, 0);
  return image;
}

// Input and output beside each other, at the height of the output.
function both() {
  const { width, height } = output, image = blank(2 * width, height), on = context(image);
  on.imageSmoothingEnabled = !square();
  on.drawImage(canvas, 0, 0, width, height);
  if (run.kind === "mask") on.drawImage(hatch, 0, 0, width, height);
  on.drawImage(output, width, 0);
  return image;
}

async function copyImage() {
  if (!navigator.clipboard?.write || !window.ClipboardItem) throw new Error("copying an image needs https or localhost, and a newer browser; save it instead");
  await navigator.clipboard.write([new ClipboardItem({ "image/png": png(both()) })]);
  say("copied: input and output", true);
}

function asText() {
  const values = { pix2pix_drawing: 1, run: run.name, kind: run.kind, seed, noise, image: canvas.toDataURL() };
  return JSON.stringify(run.kind === "mask" ? { ...values, mask: mask.toDataURL() } : values);
}

// Reads a drawing: its values, and its images.
async function parse(text) {
  let values;
  try { values = JSON.parse(text); } catch { values = null; }
  const good = url => typeof url === "string" && url.startsWith("data:image/png;base64,");
  if (values?.pix2pix_drawing !== 1 || !good(values.image) || values.kind === "mask" && !good(values.mask))
    throw new Error("this text is not a drawing of this page");
  const images = await Promise.all([values.image, values.mask].filter(Boolean).map(fetched))
    .catch(() => { throw new Error("the image of this drawing is damaged"); });
  if (images.some(image => Math.max(image.width, image.height) > MAX_SIDE || image.width !== images[0].width || image.height !== images[0].height))
    throw new Error(`the image of this drawing is larger than ${MAX_SIDE} px`);
  return [values, images];
}

// Makes a drawing that was read the current one.
function apply(values, images) {
  if (Number.isSafeInteger(values.seed) && values.seed >= 0) seed = values.seed;
  noisy(values.noise !== false);
  resize(images[0].width, images[0].height);
  pixels.drawImage(images[0], 0, 0);
  if (run.kind === "mask") {
    holes.clearRect(0, 0, mask.width, mask.height);
    holes.drawImage(images[1], 0, 0);
  }
  commit();
}

async function load(text) {
  const [values, images] = await parse(text);
  const named = runs.find(one => one.name === values.run && one.kind === values.kind);
  const fitting = named ?? [run, ...runs].find(one => one.kind === values.kind);
  if (!fitting) throw new Error(`this drawing is for a run whose input is of the kind ${values.kind}`);
  if (camera) leave();
  if (fitting !== run) enter(fitting);
  apply(values, images);
  element("json").close();
}
element("copy").onclick = () => attempt(async () => {
  element("text").select();
  if (!navigator.clipboard) throw new Error("copying needs https or localhost; the text is selected, press Ctrl+C");
  await navigator.clipboard.writeText(element("text").value);
  say("copied", true);
});
element("load").onclick = () => attempt(() => load(element("text").value));
element("save-text").onclick = () => download_as(new Blob([element("text").value], { type: "application/json" }), "drawing.json");
element("open-text").onclick = () => element("file").click();

// ---- Tools, colors, keys

function choose(wanted) {
  color = wanted;
  const chips = [...element("palette").querySelectorAll("[role=radio]")];
  for (const chip of chips) chip.setAttribute("aria-checked", hex(chip.color) === hex(color));
  const chosen = chips.find(chip => chip.ariaChecked === "true") ?? chips[0];
  for (const chip of chips) chip.tabIndex = chip === chosen ? 0 : -1;  // Tab enters once, arrows move
  const free = element("palette").querySelector("input");
  if (free) free.value = hex(color);
  if (tool === "eraser") take("brush");
}
element("palette").onkeydown = event => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const chips = [...element("palette").querySelectorAll("[role=radio]")], at = chips.indexOf(event.target);
  if (!by || at < 0) return;
  event.preventDefault();
  const next = chips[(at + by + chips.length) % chips.length];
  choose(next.color);
  next.focus();
};

function take(name) {
  tool = name;
  for (const { id, toggle } of ACTIONS) if (toggle === "tool") element(id).setAttribute("aria-pressed", id === tool);
}

function resized() {
  sizes[run.kind + run.size] = +element("size").value;
  element("px").value = `${element("size").value} px`;
}
element("size").oninput = resized;

function grow(by) {
  const size = +element("size").value;
  element("size").value = size + by * Math.max(1, Math.round(size / 8));
  resized();
}

function noisy(on = !noise) {
  noise = on;
  element("noise").setAttribute("aria-pressed", noise);
  element("redraw").disabled = !noise;
  remember();
  update();
}

function slide() {
  const on = document.body.toggleAttribute("data-slider");
  for (const id of ["under", "at", "under-name", "output-name"]) element(id).hidden = !on;
  element("slider").setAttribute("aria-pressed", on);
}
element("at").oninput = () => element("at").parentElement.style.setProperty("--at", element("at").value);

const ICONS = {
  rectangle: '<rect x="3" y="5" width="14" height="10" rx="1"/>',
  brush: '<path d="M4 16l.8-3.6L13.5 3.7l2.8 2.8L7.6 15.2zM11.5 5.7l2.8 2.8"/>',
  line: '<path d="M4 16L16 4"/>',
  fill: '<path d="M8.5 3.5l7 7-5.5 5.5a1.5 1.5 0 01-2 0l-4-4a1.5 1.5 0 010-2zM3.6 11h11.4M17.3 13.5c1 1.6 1 2.8 0 2.8s-1-1.2 0-2.8"/>',
  eraser: '<path d="M11 4.5l5 5-6.5 6.5H6.5L3 12.5zM7 8.5l5 5M9.5 16H17"/>',
  undo: '<path d="M7 4L3.5 7.5 7 11M3.5 7.5H12a4 4 0 010 8H8"/>',
  redo: '<path d="M13 4l3.5 3.5L13 11M16.5 7.5H8a4 4 0 000 8h4"/>',
  clear: '<path d="M4 6h12M8 6V4h4v2M5.5 6l.9 10.5h7.2L14.5 6"/>',
};

// Every action: its id, key, name, group of buttons, and what it does.
const ACTIONS = [
  ...["rectangle", "brush", "line", "fill", "eraser"].map(id => ({ id, key: id[0].toUpperCase(), name: id, into: "tools", toggle: "tool", does: () => take(id) })),
  { id: "smaller", key: "[", name: "smaller brush", does: () => grow(-1) },
  { id: "larger", key: "]", name: "larger brush", does: () => grow(1) },
  { id: "undo", key: "Z", name: "undo", into: "steps", does: () => step(-1) },
  { id: "redo", key: "Y", name: "redo", into: "steps", does: () => step(1) },
  { id: "clear", key: "C", name: "clear", into: "steps", does: () => drawable() && wipe() },
  { id: "noise", key: "N", name: "dropout, the noise of the paper, on or off", text: "Randomness", into: "views", toggle: "noise", does: () => noisy() },
  { id: "redraw", key: "D", name: "another output for the same input", text: "Variation", into: "views", does: () => { seed = Math.floor(Math.random() * 2 ** 31); remember(); if (noise) update(); } },
  { id: "slider", key: "V", name: "slider between input and output", text: "Slider", into: "views", toggle: "slider", does: slide },
  { id: "whole", key: "H", name: "show the whole image after zooming", does: () => look() },
  { id: "open", key: "O", name: "open an image or a drawing", text: "Open", into: "more", does: () => element("file").click() },
  { id: "webcam", key: "W", name: "translate the webcam live; again: take the photo", text: "Webcam", into: "more", toggle: "camera", does: () => element("webcam").hidden || attempt(webcam) },
  { id: "as-text", key: "J", name: "the drawing as text or a file, to copy, save or open", text: "Text", into: "more", does: () => { element("text").value = asText(); element("json").showModal(); } },
  { id: "save-mask", key: "M", name: "save the hole as PNG, for evaluate.py --mask", text: "Save hole", into: "more", does: () => element("save-mask").hidden || save(holeImage(), "mask") },
  { id: "save-input", key: "I", name: "save the input as PNG", text: "Save input", into: "more", does: () => save(canvas, "input") },
  { id: "save", key: "S", name: "save the output as PNG", text: "Save output", into: "more", does: () => save(output, "output") },
  { id: "save-both", key: "P", name: "save input and output side by side as PNG", text: "Save both", into: "more", does: () => save(both(), "both") },
  { id: "copy-image", key: "K", name: "copy input and output side by side", text: "Copy", into: "more", does: () => attempt(copyImage) },
  { id: "keys-open", key: "?", name: "keys", text: "Keys", into: "more", does: () => element("help").showModal() },
];
for (const { id, key, name, text, into, toggle, does } of ACTIONS) {
  element("keys").append(make("dt", { textContent: key }), make("dd", { textContent: name }));
  if (!into) continue;
  const button = make("button", { type: "button", id, title: `${name} (${key})`, onclick: does });
  if (toggle) button.setAttribute("aria-pressed", false);
  if (text) button.textContent = text;
  else {
    Object.assign(button, { className: "icon", innerHTML: `<svg viewBox="0 0 20 20" aria-hidden="true">${ICONS[id]}</svg>` });
    button.setAttribute("aria-label", name);
  }
  element(into).append(button);
}
for (const [key, name] of [["1 … 0", "the first ten colors; with Shift, the next"], ["Shift", "a square, or a line in steps of 45°"],
  ["Alt + click", "take the color there"], ["right button", "erase"], ["wheel, two fingers", "zoom"], ["Space + drag, two fingers", "move the zoomed image"],
  ["Escape", "cancel the stroke, stop the webcam"], ["Ctrl + Z, Ctrl + Y", "undo, redo"]])
  element("keys").append(make("dt", { textContent: key }), make("dd", { textContent: name }));
for (const button of document.querySelectorAll("[data-close]")) button.onclick = () => button.closest("dialog").close();

addEventListener("keydown", event => {
  if (!run || event.target.closest?.("textarea, select, input:not([type=range])") || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") return camera ? leave() : cancel();
  const digit = /^Digit(\d)$/.exec(event.code)?.[1];
  const control = event.ctrlKey || event.metaKey;
  if (control) {
    const by = { z: event.shiftKey ? 1 : -1, y: 1 }[event.key.toLowerCase()];
    if (by) { event.preventDefault(); step(by); }
  } else if (digit !== undefined && !event.altKey) {
    element("palette").querySelectorAll("button")[(+digit + 9) % 10 + 10 * event.shiftKey]?.click();
  } else if (!event.altKey) {
    const action = ACTIONS.find(action => action.key === event.key.toUpperCase());
    if (action) event.preventDefault();  // the key is not for a dialog that it opens
    if (run && (!run.error || action?.id === "keys-open")) action?.does();
  }
});

// ---- Runs

function about() {
  const size = run.factor > 1 ? `${canvas.width}×${canvas.height} → ${canvas.width * run.factor}×${canvas.height * run.factor} px` : `${run.size} px`;
  element("about").textContent = `${run.title} · ${size}${site ? " · in this browser" : ""}`;
}

function chips(colors) {
  const made = Object.entries(colors).map(([name, value], i) => {
    const chip = make("button", { type: "button", color: value, onclick: () => choose(value) },
      make("i"), make("span", { textContent: name }), make("kbd", { textContent: i < 10 ? (i + 1) % 10 : "", ariaHidden: "true" }));
    chip.firstChild.style.background = css(value);
    chip.setAttribute("role", "radio");
    return chip;
  });
  if (run.kind === "edges") made.length = 0;
  if (run.kind === "image") {
    const free = make("input", { type: "color", title: "any color", ariaLabel: "any color" });
    free.oninput = () => choose([1, 3, 5].map(i => parseInt(free.value.slice(i, i + 2), 16)));
    made.push(free);
  }
  element("palette").replaceChildren(...made);
}

function enter(next) {
  cancel();
  if (camera) stopCamera();
  store();
  run = next;
  element("runs").value = run.name;
  element("time").textContent = "";
  say("");
  look();
  for (const one of [output, element("under")]) one.width = one.height = run.size ?? 256;  // empties it
  if (run.error) return say(run.error);
  stage.classList.toggle("pixels", square());
  document.body.toggleAttribute("data-square", square());
  cameraShown(false);
  for (const id of ["tools", "size-label", "clear"]) element(id).hidden = run.kind === "photo";
  element("webcam").hidden = run.kind === "labels";
  element("save-mask").hidden = run.kind !== "mask";

  const colors = { labels: run.palette, edges: { black: [0, 0, 0] }, image: { black: [0, 0, 0], white: [255, 255, 255] } }[run.kind] ?? {};
  chips(colors);
  const key = JSON.stringify([run.kind, run.task, run.size, run.longest, Object.entries(run.palette)]);
  const known = drawings.get(key);
  if (drawing !== known || !known) choose(Object.values(colors)[run.kind === "labels" ? Math.min(2, Object.keys(colors).length - 1) : 0] ?? [0, 0, 0]);
  else choose(color);
  if (tool === "eraser") take("brush");
  element("size").max = Math.max(8, Math.round(run.size / 4));
  element("size").value = sizes[run.kind + run.size] ?? { edges: 2, mask: run.size / 8 }[run.kind] ?? run.size / 24;
  resized();
  element("examples").replaceChildren(...run.examples.map((url, i) => {
    const button = make("button", { type: "button", title: `example ${i + 1}` }, make("img", { src: url, alt: `example ${i + 1}`, loading: "lazy" }));
    button.onclick = () => attempt(async () => { if (camera) leave(); put(await fetched(url)); });
    return button;
  }));
  drawing = known ?? { states: [], at: -1 };
  drawings.set(key, drawing);
  if (known?.states.length) return restore();
  if (run.kind === "edges" || run.kind === "mask" && tool !== "brush") take("brush");
  begin();
}

// The first drawing of a run: the one of the last visit, or an example, or an empty one.
function begin() {
  const mine = drawing, unused = () => drawing === mine && mine.states.length === 0;
  resize(run.size, run.size);
  pixels.fillStyle = css(ground());
  pixels.fillRect(0, 0, run.size, run.size);
  holes.clearRect(0, 0, run.size, run.size);
  stripe();
  const start = () => commit(["mask", "photo"].includes(run.kind));
  const before = recall(run.name);
  if (!before && !run.examples.length) return start();
  attempt(async () => {
    const parsed = before && await parse(before).catch(() => null);
    const fits = parsed && parsed[0].kind === run.kind && (!square() || parsed[1][0].width === run.size);
    const image = !fits && run.examples.length && await fetched(run.examples[0]).catch(() => null);
    if (!unused()) return;
    if (fits) return apply(...parsed);
    if (image) try { return put(image); } catch { /* it is too small */ }
    start();
  });
}

function list(found) {
  runs = found;
  element("runs").replaceChildren(...runs.map(one => make("option", { value: one.name, disabled: Boolean(one.error), title: one.error ?? "",
    textContent: one.error ? `${one.name}: ${one.error}` : one.name })));
  if (run) element("runs").value = run.name;
}
element("runs").onchange = () => {
  enter(runs.find(one => one.name === element("runs").value));
  element("runs").blur();  // so that keys choose tools again
};

const listed = async () => (await request("runs.json")).json();

// A run in training is translated again when it saves. Says when the server or the run is gone.
let missing = "";
async function watch() {
  if (document.hidden || stroke || camera) return;
  const found = await listed().then(answer => answer.runs, error => error.message);
  const gone = typeof found === "string" ? found : found.some(one => one.name === run.name) ? "" : `the run ${run.name} is no longer there; choose another`;
  if (gone !== missing) say(gone);
  missing = gone;
  if (typeof found === "string") return;
  const about = one => `${one.name} ${one.error ?? ""}`, now = found.find(one => one.name === run.name);
  const saved = now && now.stamp !== run.stamp;
  if (saved || found.map(about).join("\n") !== runs.map(about).join("\n")) list(found);
  if (saved && (run.error || now.error)) enter(now);
  else if (saved) { run = now; update(); }
}

attempt(async () => {
  const found = await listed();
  if (found.runtime) site = browser(found.runtime, found.runs[0]);
  list(found.runs);
  take("rectangle");
  const good = runs.filter(one => !one.error);
  if (!good.length) throw new Error(runs[0]?.error ?? "there is no run");
  run = good.find(one => one.name === recall("")) ?? good[0];
  noisy(true);
  enter(run);
  element("runs").hidden = Boolean(site);
  if (!site) setInterval(watch, 5000);
});
