// Plays an episode: poses of bodies and their simple shapes on a canvas, farthest first; curves beside, with one place
// in time for all. No WebGL: some machines have none, and there are a few thousand faces at most.
const box = document.querySelector("[data-episodes]");
const canvas = box.querySelector("canvas");
const pen = canvas.getContext("2d");
const [slider, time, said] = [box.querySelector("input[type=range]"), box.querySelector(".time"), box.querySelector(".said")];
const [form, play, views] = [box.querySelector("form"), box.querySelector("[data-play]"), box.querySelector("[name=view]")];
const VIEWS = { corner: [-0.9, 0.35], front: [0, 0.12], side: [-Math.PI / 2, 0.12], top: [-Math.PI / 2, 1.55] };
let shown = null; // the episode, with its arrays
let frame = 0;
let turn = [...VIEWS.corner];
let near = 1;
let playsFrom = null; // [time of the clock, time of the episode]

// Numbers

const floats = (text) => {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  return new Float32Array(bytes.buffer);
};
const rotated = (q, o, [x, y, z]) => {
  const [a, b, c, w] = [q[o], q[o + 1], q[o + 2], q[o + 3]];
  const [u, v, t] = [2 * (b * z - c * y), 2 * (c * x - a * z), 2 * (a * y - b * x)];
  return [x + w * u + b * t - c * v, y + w * v + c * u - a * t, z + w * t + a * v - b * u];
};
const placed = (p, o, point) => {
  const [x, y, z] = rotated(p, o + 3, point);
  return [x + p[o], y + p[o + 1], z + p[o + 2]];
};

// Shapes: rings of points along z become faces; their corners are in the frame of the body.

const lathe = (rings, around = 12) => {
  const faces = [];
  const at = ([r, z], n) => [r * Math.cos((2 * Math.PI * n) / around), r * Math.sin((2 * Math.PI * n) / around), z];
  for (let ring = 0; ring + 1 < rings.length; ring++) {
    for (let n = 0; n < around; n++) {
      const [low, high] = [rings[ring], rings[ring + 1]];
      const face = [at(low, n), at(low, n + 1), at(high, n + 1), at(high, n)];
      faces.push(low[0] === 0 ? [face[0], face[2], face[3]] : high[0] === 0 ? face.slice(0, 3) : face);
    }
  }
  return faces;
};
const dome = (r, from, to, z, steps = 4) => Array.from({ length: steps + 1 }, (_, n) => {
  const angle = from + ((to - from) * n) / steps;
  return [Math.abs(Math.cos(angle)) < 1e-9 ? 0 : r * Math.cos(angle), z + r * Math.sin(angle)];
});
const QUARTER = Math.PI / 2;
const CORNERS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]];
const facesOf = ({ type, size }) => {
  const [a, b, c] = size;
  switch (type) {
    case "sphere": return lathe(dome(a, -QUARTER, QUARTER, 0, 8));
    case "ellipsoid": return lathe(dome(1, -QUARTER, QUARTER, 0, 8)).map((face) => face.map(([x, y, z]) => [x * a, y * b, z * c]));
    case "capsule": return lathe([...dome(a, -QUARTER, 0, -b), ...dome(a, 0, QUARTER, b)]);
    case "cylinder": return lathe([[0, -b], [a, -b], [a, b], [0, b]]);
    case "cone": return lathe([[0, -b], [a, -b], [0, b]]);
    default: {
      const corner = (n) => [n & 4 ? a : -a, n & 2 ? b : -b, n & 1 ? c : -c];
      return CORNERS.map((face) => face.map(corner));
    }
  }
};

// What there is to see

const prepared = (told) => {
  const poses = floats(told.poses);
  const count = told.bodies.length;
  const faces = told.shapes.map((one) => ({ ...one, faces: facesOf(one).map((face) => face.map((point) => placed(one.pose, 0, point))) }));
  // Its middle and its extent, over all frames: the view stands still.
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  const see = (point) => point.forEach((value, axis) => {
    if (!Number.isFinite(value)) return;
    low[axis] = Math.min(low[axis], value);
    high[axis] = Math.max(high[axis], value);
  });
  for (let n = 0; n < told.frames; n += Math.max(1, Math.floor(told.frames / 50))) {
    for (let body = 0; body < count; body++) see([...poses.subarray((n * count + body) * 7, (n * count + body) * 7 + 3)]);
    for (const one of faces) {
      const at = (n * count + one.body) * 7;
      for (const face of one.faces) see(one.body < 0 ? face[0] : placed(poses, at, face[0]));
    }
  }
  const middle = low.map((value, axis) => (Number.isFinite(value) ? (value + high[axis]) / 2 : 0));
  const extent = Math.max(0.2, ...high.map((value, axis) => (Number.isFinite(value) ? value - low[axis] : 0)));
  const bare = told.shapes.length ? [] : [...told.bodies.keys()];
  return { ...told, poses, count, faces, middle, extent, bare, curves: told.curves.map((one) => ({ ...one, values: floats(one.values) })) };
};

const draw = () => {
  const { poses, count, faces, middle, extent, bare } = shown;
  const [yaw, pitch] = turn;
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  const distance = (extent * 1.7) / near;
  const { width, height } = canvas;
  const seen = ([x, y, z]) => {
    const [a, b, c] = [x - middle[0], y - middle[1], z - middle[2]];
    const [right, back] = [-sy * a + cy * b, cy * a + sy * b];
    const depth = distance - (cp * back + sp * c);
    if (depth < distance / 50) return null;
    const scale = (1.3 * height) / depth;
    return [width / 2 + right * scale, height / 2 - (cp * c - sp * back) * scale, depth];
  };
  const style = getComputedStyle(document.body);
  pen.fillStyle = style.getPropertyValue("--part");
  pen.fillRect(0, 0, width, height);

  const line = (from, to, color, wide = 1) => {
    const [a, b] = [seen(from), seen(to)];
    if (!a || !b) return;
    pen.strokeStyle = color;
    pen.lineWidth = wide;
    pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
  };
  // The ground at z = 0, a line every step of a round length.
  const step = 10 ** Math.round(Math.log10(extent / 4));
  const [gx, gy] = [Math.round(middle[0] / step) * step, Math.round(middle[1] / step) * step];
  for (let n = -12; n <= 12; n++) {
    line([gx + n * step, gy - 12 * step, 0], [gx + n * step, gy + 12 * step, 0], style.getPropertyValue("--line"));
    line([gx - 12 * step, gy + n * step, 0], [gx + 12 * step, gy + n * step, 0], style.getPropertyValue("--line"));
  }

  // Faces that look this way, the farthest first.
  const ready = [];
  for (const one of faces) {
    const at = (frame * count + one.body) * 7;
    for (const face of one.faces) {
      const points = (one.body < 0 ? face : face.map((point) => placed(poses, at, point))).map(seen);
      if (points.includes(null)) continue;
      let area = 0;
      points.forEach(([x, y], n) => { const [u, v] = points[(n + 1) % points.length]; area += x * v - u * y; });
      if (area >= 0) continue; // counter-clockwise from outside, and the picture's y points down
      const [p, q, r] = face;
      const [e, f] = [[q[0] - p[0], q[1] - p[1], q[2] - p[2]], [r[0] - p[0], r[1] - p[1], r[2] - p[2]]];
      let normal = [e[1] * f[2] - e[2] * f[1], e[2] * f[0] - e[0] * f[2], e[0] * f[1] - e[1] * f[0]];
      if (one.body >= 0) normal = rotated(poses, at + 3, normal);
      const long = Math.hypot(...normal) || 1;
      const light = 0.55 + 0.45 * Math.max(0, (0.4 * normal[0] - 0.3 * normal[1] + 0.86 * normal[2]) / long);
      ready.push([points.reduce((sum, point) => sum + point[2], 0) / points.length, points, one.color, light]);
    }
  }
  ready.sort((one, two) => two[0] - one[0]);
  for (const [, points, color, light] of ready) {
    pen.fillStyle = pen.strokeStyle = `rgb(${color.map((part) => Math.round(255 * Math.min(1, part * light))).join(" ")})`;
    pen.lineWidth = 0.7;
    pen.beginPath();
    points.forEach(([x, y], n) => (n ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath(); pen.fill(); pen.stroke();
  }
  // Where nothing has a shape, the place of each body.
  for (const body of bare) {
    const at = (frame * count + body) * 7;
    const long = extent / 12;
    [[long, 0, 0], [0, long, 0], [0, 0, long]].forEach((axis, n) => {
      line([...poses.subarray(at, at + 3)], placed(poses, at, axis), ["#d33", "#2a2", "#36d"][n], 2.5);
    });
  }
};

// Curves, a small figure each

const SVG = "http://www.w3.org/2000/svg";
const made = (name, attributes, text) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
};
const drawCurves = () => {
  const figures = shown.curves.map((one) => {
    const finite = one.values.filter(Number.isFinite);
    const [low, high] = [finite.reduce((a, b) => Math.min(a, b), Infinity), finite.reduce((a, b) => Math.max(a, b), -Infinity)];
    const x = (n) => 6 + (348 * n) / Math.max(1, shown.frames - 1);
    const y = (value) => 84 - (76 * (value - low)) / (high - low || 1);
    const label = one.group === one.name ? one.name : `${one.group} ${one.name}`;
    const unit = one.unit && ` ${one.unit}`;
    const image = made("svg", { viewBox: "0 0 360 90", role: "img", "aria-label": `${label}: ${low.toPrecision(4)} to ${high.toPrecision(4)}${unit}` });
    let points = [];
    const close = () => { if (points.length) image.append(made("polyline", { class: "curve", points: points.join(" ") })); points = []; };
    one.values.forEach((value, n) => (Number.isFinite(value) ? points.push(`${x(n).toFixed(1)},${y(value).toFixed(1)}`) : close()));
    close();
    one.mark = image.appendChild(made("line", { class: "border", y1: 4, y2: 86 }));
    one.x = x;
    const figure = document.createElement("figure");
    const caption = figure.appendChild(document.createElement("figcaption"));
    caption.append(...[label, ""].map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    one.now = caption.lastElementChild;
    figure.append(image);
    return figure;
  });
  box.querySelector(".curves").replaceChildren(...figures);
};

// Time

const put = (to) => {
  frame = Math.max(0, Math.min(shown.frames - 1, Math.round(to)));
  slider.value = frame;
  const step = frame * shown.stride;
  time.textContent = `${(step * shown.period_s).toFixed(2)} s, step ${step}`;
  slider.setAttribute("aria-valuetext", time.textContent);
  draw();
  for (const one of shown.curves) {
    one.mark.setAttribute("x1", one.x(frame));
    one.mark.setAttribute("x2", one.x(frame));
    one.now.textContent = `${one.values[frame].toPrecision(4)}${one.unit && ` ${one.unit}`}`;
  }
};
const secondsAFrame = () => shown.stride * shown.period_s;
const tick = (now) => {
  if (!playsFrom) return;
  const speed = Number(box.querySelector("[name=speed]").value);
  const at = playsFrom[1] + ((now - playsFrom[0]) / 1000) * speed;
  put(Math.floor(at / secondsAFrame()));
  if (frame >= shown.frames - 1) stop();
  else requestAnimationFrame(tick);
};
const stop = () => { playsFrom = null; play.textContent = "Play"; };
const begin = () => {
  if (frame >= shown.frames - 1) put(0);
  playsFrom = [performance.now(), frame * secondsAFrame()];
  play.textContent = "Pause";
  requestAnimationFrame(tick);
};

// What somebody does

const show = async (episode) => {
  stop();
  for (const control of [play, slider]) control.disabled = true;
  said.textContent = "It is being read …";
  try {
    const answer = await fetch(box.dataset.episodes.replace("%s", episode), { cache: "no-store" });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.detail);
    shown = prepared(told);
  } catch (error) {
    said.textContent = error.message;
    return;
  }
  form.elements.episode.value = shown.episode;
  form.elements.episode.max = shown.episodes;
  const success = shown.success === null ? "success not measured" : shown.success ? "succeeded" : "failed";
  const every = shown.stride > 1 ? `, every ${shown.stride}th step is shown` : "";
  const missing = shown.missing.length ? ` Not recorded, so not drawn: ${shown.missing.join(", ")}.` : "";
  const bare = shown.has_geometry ? "" : shown.count ? " Shapes were not recorded: axes stand where bodies are." : " No pose was recorded: there are curves alone.";
  said.textContent = `Episode ${shown.episode} of ${shown.episodes}: environment ${shown.env}, ${shown.steps} steps${every}, ${success}, ended: ${shown.ended}.${bare}${missing}`;
  slider.max = shown.frames - 1;
  for (const control of [play, slider]) control.disabled = false;
  canvas.hidden = !shown.count;
  drawCurves();
  put(0);
};

form.addEventListener("submit", (event) => { event.preventDefault(); show(form.elements.episode.value); });
form.addEventListener("click", (event) => {
  const by = Number(event.target.dataset.by);
  if (by && shown) show(Math.max(1, Math.min(shown.episodes, shown.episode + by)));
});
play.addEventListener("click", () => (playsFrom ? stop() : begin()));
slider.addEventListener("input", () => { stop(); put(Number(slider.value)); });
box.querySelector("[name=speed]").addEventListener("change", () => { if (playsFrom) begin(); });
views.addEventListener("change", () => { turn = [...VIEWS[views.value]]; near = 1; if (shown) draw(); });
canvas.addEventListener("pointermove", (event) => {
  if (!event.buttons || !shown) return;
  turn = [turn[0] - event.movementX / 150, Math.max(-1.55, Math.min(1.55, turn[1] + event.movementY / 150))];
  draw();
});
canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  near = Math.max(0.2, Math.min(20, near * Math.exp(-event.deltaY / 500)));
  if (shown) draw();
}, { passive: false });
show(1);
