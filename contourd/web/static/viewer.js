// Axial, coronal and sagittal planes of one CT with its contours. Pixels come as Hounsfield units and are windowed here;
// contours come as SVG paths in mm of the plane. All positions on a plane are mm from its upper left corner.

const PLANES = ["axial", "coronal", "sagittal"];
const KEPT = 240; // planes in memory
const AHEAD = 3; // planes fetched before they are asked for
const MARGIN_MM = 30;
const FAR_MM = 5000; // the lines go beyond any picture
const SVG = "http://www.w3.org/2000/svg";

const viewer = document.getElementById("viewer");
const { base } = viewer.dataset; // of a job, or of a series that is held: then it has no organs, and perhaps gaps
const panes = {};
const kept = new Map();
const state = { at: {}, window: [-160, 240], zoomed: true, contours: true, hidden: new Set(), focus: "axial" };
let scene;

function load(plane, index) {
  const key = `${plane}/${index}`;
  let found = kept.get(key);
  if (found) {
    kept.delete(key);
  } else {
    const get = async (what) => {
      const answer = await fetch(`${base}/${what}/${key}`, { credentials: "same-origin" });
      if (!answer.ok) throw new Error(`${what}: ${answer.status}`);
      return answer;
    };
    found = Promise.all([
      get("pixels").then((a) => a.arrayBuffer()).then((b) => new Int16Array(b)),
      get("outlines").then((a) => a.json()),
    ]).then(([pixels, outlines]) => ({ pixels, outlines }));
    found.catch(() => kept.delete(key));
  }
  kept.set(key, found);
  while (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return found;
}

// Grey of each Hounsfield unit from -32768 on, for the window that is set.
function shades() {
  const [low, high] = state.window;
  if (shades.of !== state.window) {
    shades.of = state.window;
    shades.table = new Uint8ClampedArray(65536);
    for (let v = 0; v < 65536; v++) shades.table[v] = ((v - 32768 - low) / (high - low)) * 255;
  }
  return shades.table;
}

function paint(pane) {
  const { shown, about } = pane;
  if (!shown) return;
  const [width, height] = about.pixels;
  if (pane.painted !== shown || pane.window !== state.window) {
    const image = new ImageData(width, height);
    const grey = shades();
    const out = new Uint32Array(image.data.buffer);
    for (let i = 0; i < out.length; i++) {
      const g = grey[shown.pixels[i] + 32768];
      out[i] = 0xff000000 | (g << 16) | (g << 8) | g;
    }
    pane.source.width = width;
    pane.source.height = height;
    pane.source.getContext("2d").putImageData(image, 0, 0);
    [pane.painted, pane.window] = [shown, state.window];
  }
  const view = viewOf(pane);
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(pane.element.clientWidth * ratio), Math.round(pane.element.clientHeight * ratio)];
  if (pane.canvas.width !== w || pane.canvas.height !== h) [pane.canvas.width, pane.canvas.height] = [w, h];
  const context = pane.canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, w, h);
  context.imageSmoothingQuality = "high";
  const scale = w / view.width;
  context.drawImage(pane.source, -view.x * scale, -view.y * scale, about.size_mm[0] * scale, about.size_mm[1] * scale);
  pane.svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
}

// The rectangle in mm that a pane shows: the organs with a margin, or everything, widened to the pane's shape.
function viewOf(pane) {
  const [w, h] = [pane.element.clientWidth || 1, pane.element.clientHeight || 1];
  const [width, height] = pane.about.size_mm;
  const box = state.zoomed && pane.organs ? pane.organs : [0, 0, width, height];
  const scale = Math.max((box[2] - box[0]) / w, (box[3] - box[1]) / h);
  return { x: (box[0] + box[2] - scale * w) / 2, y: (box[1] + box[3] - scale * h) / 2, width: scale * w, height: scale * h };
}

// Where the organs lie on a plane, in mm.
function organBox(plane) {
  if (!scene.organs.length) return null;
  const [, dy, dx] = scene.spacing_mm;
  const span = (axis) => [
    Math.min(...scene.organs.map((o) => o.box[axis][0])), Math.max(...scene.organs.map((o) => o.box[axis][1])),
  ];
  const last = scene.depths_mm.length - 1;
  const z = span(0).map((k) => scene.depths_mm[Math.max(0, Math.min(last, k))]);
  const y = span(1).map((k) => k * dy);
  const x = span(2).map((k) => k * dx);
  const [across, down] = { axial: [x, y], coronal: [x, z], sagittal: [y, z] }[plane];
  const [width, height] = scene.planes[plane].size_mm;
  return [
    Math.max(0, Math.min(...across) - MARGIN_MM), Math.max(0, Math.min(...down) - MARGIN_MM),
    Math.min(width, Math.max(...across) + MARGIN_MM), Math.min(height, Math.max(...down) + MARGIN_MM),
  ];
}

function outline(pane) {
  const nodes = [];
  const [from, to] = [-FAR_MM, FAR_MM];
  const line = (x1, y1, x2, y2) => {
    const node = document.createElementNS(SVG, "line");
    for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) node.setAttribute(name, value);
    nodes.push(node);
  };
  const place = crossing();
  if (pane.plane === "axial") line(place.x, from, place.x, to), line(from, place.y, to, place.y);
  if (pane.plane === "coronal") line(place.x, from, place.x, to), line(from, place.depth, to, place.depth);
  if (pane.plane === "sagittal") line(place.y, from, place.y, to), line(from, place.depth, to, place.depth);
  for (const gap of pane.plane === "axial" ? [] : scene.gaps) {
    const node = document.createElementNS(SVG, "rect");
    const band = { x: from, y: gap.from_mm, width: to - from, height: gap.to_mm - gap.from_mm };
    for (const [name, value] of Object.entries(band)) node.setAttribute(name, value);
    node.classList.add("gap");
    nodes.push(node);
  }
  for (const organ of state.contours ? scene.organs : []) {
    const drawn = pane.shown?.outlines[organ.number];
    if (!drawn || state.hidden.has(organ.number)) continue;
    const node = document.createElementNS(SVG, "path");
    node.setAttribute("d", drawn);
    node.setAttribute("stroke", organ.colour);
    node.style.setProperty("--organ", organ.colour);
    node.setAttribute("fill-rule", "evenodd");
    node.dataset.organ = organ.name;
    if (organ.remark) node.classList.add("check");
    if (organ.shadow) node.classList.add("shadow");
    nodes.push(node);
  }
  pane.svg.replaceChildren(...nodes);
}

// Where the three planes cross: mm to the left, to the back, and down from the upper edge.
function crossing() {
  const [, dy, dx] = scene.spacing_mm;
  return { x: (state.at.sagittal + 0.5) * dx, y: (state.at.coronal + 0.5) * dy, depth: scene.depths_mm[state.at.axial] };
}

async function show(plane, index) {
  const pane = panes[plane];
  const wanted = Math.max(0, Math.min(pane.about.count - 1, Math.round(index)));
  const moved = state.at[plane] !== wanted;
  state.at[plane] = wanted;
  pane.slider.value = wanted;
  const place = Object.assign(document.createElement("small"), { textContent: ` · ${pane.about.places[wanted].toFixed(1)} mm` });
  pane.label.replaceChildren(`${wanted + 1}/${pane.about.count}`, place);
  const edge = plane === "axial" ? edgeOf(pane.about.places[wanted], pane.about.places[wanted + 1], pane.about.places[wanted - 1]) : "";
  if (edge) pane.label.append(Object.assign(document.createElement("b"), { className: "edge", textContent: edge }));
  if (moved) for (const other of Object.values(panes)) if (other !== pane && other.shown) outline(other);
  try {
    const shown = await load(plane, wanted);
    if (state.at[plane] !== wanted) return;
    pane.shown = shown;
    pane.element.dataset.shown = wanted;
    paint(pane);
    outline(pane);
  } catch (error) {
    pane.label.textContent = `this plane could not be read (${error.message})`;
    return;
  }
  for (let step = 1; step <= AHEAD; step++) {
    for (const next of [wanted + step, wanted - step]) if (next >= 0 && next < pane.about.count) load(plane, next).catch(() => {});
  }
}

// Say where a gap lies beside an axial plane.
function edgeOf(here, above, below) {
  const between = (low, high) => scene.gaps.find((gap) => low < gap.places[0] && gap.places[0] < high);
  const told = (gap, where) => (gap ? `${gap.places.length} missing ${where}` : "");
  return told(between(here, above), "above") || told(between(below, here), "below");
}

function redraw() {
  for (const pane of Object.values(panes)) paint(pane), outline(pane);
}

function setWindow(low, high) {
  state.window = [Math.round(low), Math.round(Math.max(high, low + 10))];
  const [l, h] = state.window;
  document.getElementById("level").textContent = `W ${h - l} L ${Math.round((l + h) / 2)}`;
  redraw();
}

function press(id, pressed) {
  document.getElementById(id)?.setAttribute("aria-pressed", String(pressed));
}

const toggles = {
  zoom: () => { state.zoomed = !state.zoomed; press("zoom", state.zoomed); redraw(); },
  contours: () => { state.contours = !state.contours; press("contours", state.contours); redraw(); },
  fill: () => press("fill", viewer.classList.toggle("filled")),
};

function lookAt(organ) {
  for (const plane of PLANES) show(plane, organ.best[plane]);
}

// A click moves the two other planes through the point.
function pointAt(pane, event) {
  const bounds = pane.element.getBoundingClientRect();
  const view = viewOf(pane);
  const x = view.x + ((event.clientX - bounds.left) / bounds.width) * view.width;
  const y = view.y + ((event.clientY - bounds.top) / bounds.height) * view.height;
  const [, dy, dx] = scene.spacing_mm;
  const nearest = (mm) => scene.depths_mm.reduce((best, d, k) => (Math.abs(d - mm) < Math.abs(scene.depths_mm[best] - mm) ? k : best), 0);
  if (pane.plane === "axial") show("sagittal", x / dx - 0.5), show("coronal", y / dy - 0.5);
  if (pane.plane === "coronal") show("sagittal", x / dx - 0.5), show("axial", nearest(y));
  if (pane.plane === "sagittal") show("coronal", x / dy - 0.5), show("axial", nearest(y));
}

function listen(pane) {
  const { element, plane } = pane;
  let turned = 0;
  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    turned += event.deltaMode === 1 ? event.deltaY * 30 : event.deltaY;
    const steps = Math.trunc(turned / 40);
    turned -= steps * 40;
    // Rolling towards you goes down the patient, as a page does: on axial planes to smaller numbers.
    if (steps) show(plane, state.at[plane] + (plane === "axial" ? -steps : steps));
  }, { passive: false });
  pane.slider.addEventListener("input", () => show(plane, Number(pane.slider.value)));
  element.addEventListener("focusin", () => { state.focus = plane; });
  let drag = null;
  element.addEventListener("pointerdown", (event) => {
    if (event.target === pane.slider) return;
    element.focus({ preventScroll: true });
    drag = { x: event.clientX, y: event.clientY, window: state.window, windows: event.button === 2 || event.shiftKey, at: state.at[plane] };
    if (event.button === 0 && !drag.windows && event.pointerType === "mouse") pointAt(pane, event);
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    if (drag.windows) {
      const [low, high] = drag.window;
      const [width, level] = [Math.max(10, high - low + dx * 2), (low + high) / 2 + dy * 2];
      setWindow(level - width / 2, level + width / 2);
    } else if (event.pointerType === "mouse") {
      pointAt(pane, event);
    } else {
      show(plane, drag.at - Math.round(dy / 6) * (plane === "axial" ? 1 : -1));
    }
  });
  for (const ends of ["pointerup", "pointercancel"]) element.addEventListener(ends, () => { drag = null; });
  element.addEventListener("contextmenu", (event) => event.preventDefault());
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("form, select, details") || (event.target.matches("input") && event.target.type !== "range")) return;
  const plane = state.focus;
  const at = state.at[plane];
  const select = document.getElementById("window");
  const moves = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
  const others = {
    Home: () => show(plane, 0),
    End: () => show(plane, panes[plane].about.count - 1),
    ...(document.getElementById("fill") ? { c: toggles.contours, z: toggles.zoom, f: toggles.fill } : {}),
    w: () => { select.selectedIndex = (select.selectedIndex + 1) % select.options.length; select.dispatchEvent(new Event("change")); },
  };
  const inside = event.target.closest(".pane");
  if (event.key in moves && (inside || event.target === document.body)) show(plane, at + moves[event.key]);
  else if (event.key in others && (event.key.length === 1 || inside)) others[event.key]();
  else if (/^[1-9]$/.test(event.key)) document.querySelectorAll("#organs input")[event.key - 1]?.click();
  else return;
  event.preventDefault();
}

// What is there of a held series, and what is missing, with a way to each gap.
function inventory(list) {
  const say = (text, className) => list.append(Object.assign(document.createElement("li"), { textContent: text, className }));
  const { places } = scene.planes.axial;
  say(`${places.length} slices, z = ${places[0].toFixed(1)} to ${places[places.length - 1].toFixed(1)} mm`, "");
  for (const gap of scene.gaps) {
    const item = document.createElement("li");
    item.className = "gap";
    const range = [gap.places[0], gap.places[gap.places.length - 1]].map((z) => z.toFixed(1));
    const where = gap.places.length === 1 ? range[0] : `${range[0]} to ${range[1]}`;
    const text = `${gap.places.length} missing, z = ${where} mm`;
    const go = Object.assign(document.createElement("button"), { type: "button", textContent: text, title: "Go to the slice below it" });
    go.addEventListener("click", () => show("axial", places.filter((z) => z < gap.places[0]).length - 1));
    item.append(go);
    list.append(item);
  }
  if (!scene.gaps.length) say("No slice is missing between them.", "");
  if (scene.left_out) say(`${scene.left_out} images are of another kind, repeated or not readable, and not shown`, "gap");
}

// What follows in the list was drawn by a model beside the one whose contours are sent: shown dashed, hidden together.
function shadowHeading(model) {
  const heading = Object.assign(document.createElement("li"), { className: "beside" });
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  box.setAttribute("aria-label", `show the shadow ${model}`);
  box.addEventListener("change", () => {
    for (let item = heading.nextElementSibling; item?.classList.contains("shadow"); item = item.nextElementSibling) {
      const own = item.querySelector("input");
      if (own.checked !== box.checked) own.click();
    }
  });
  const name = Object.assign(document.createElement("b"), { textContent: `Shadow: ${model}` });
  heading.append(box, name, Object.assign(document.createElement("span"), { className: "why", textContent: "dashed, never sent" }));
  return heading;
}

function legend() {
  const there = document.getElementById("there");
  if (there) return inventory(there);
  const list = document.getElementById("organs");
  let beside = "";
  for (const organ of scene.organs) {
    if (organ.shadow !== beside) list.append(shadowHeading((beside = organ.shadow)));
    const item = document.createElement("li");
    item.style.setProperty("--organ", organ.colour);
    item.classList.toggle("shadow", Boolean(organ.shadow));
    item.classList.toggle("check", Boolean(organ.remark));
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    box.setAttribute("aria-label", organ.shadow ? `show ${organ.name} of the shadow` : `show ${organ.name}`);
    box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](organ.number); redraw(); });
    const name = Object.assign(document.createElement("button"), { type: "button", textContent: organ.name, title: "Go to its largest slice" });
    name.addEventListener("click", () => lookAt(organ));
    const cc = document.createElement("span");
    cc.className = "cc";
    cc.textContent = `${organ.volume_cc < 100 ? organ.volume_cc.toFixed(1) : organ.volume_cc.toFixed(0)} cc`;
    item.append(box, name, cc);
    if (organ.remark) item.append(Object.assign(document.createElement("span"), { className: "why", textContent: organ.remark }));
    list.append(item);
  }
  if (!scene.organs.length) list.append(Object.assign(document.createElement("li"), { textContent: "No structure set yet." }));
}

async function start() {
  const answer = await fetch(`${base}/scene`, { credentials: "same-origin" });
  scene = await answer.json();
  if (scene.problem) throw new Error(scene.problem);
  for (const plane of PLANES) {
    const element = viewer.querySelector(`[data-plane=${plane}]`);
    const about = scene.planes[plane];
    const pane = {
      plane, element, about, canvas: element.querySelector("canvas"), svg: element.querySelector("svg"),
      slider: element.querySelector("input"), label: element.querySelector("output"),
      source: document.createElement("canvas"), organs: organBox(plane),
    };
    panes[plane] = pane;
    pane.slider.max = about.count - 1;
    ["left", "right", "upper", "lower"].forEach((side, i) => { element.querySelector(`.letter.${side}`).textContent = about.letters[i]; });
    state.at[plane] = about.first;
    listen(pane);
  }
  legend();
  for (const id of Object.keys(toggles)) document.getElementById(id)?.addEventListener("click", toggles[id]);
  document.getElementById("window").addEventListener("change", (event) => setWindow(...event.target.value.split(",").map(Number)));
  document.addEventListener("keydown", keys);
  new ResizeObserver(redraw).observe(viewer.querySelector(".panes"));
  await Promise.all(PLANES.map((plane) => show(plane, scene.planes[plane].first)));
  viewer.dataset.state = "ready";
}

start().catch((error) => {
  viewer.dataset.state = "failed";
  viewer.querySelector(".wait").textContent = `The pictures cannot be shown: ${error.message}`;
});
