// Pictures as SVG: scales, axes, marks that a mouse, a finger and a keyboard reach.
const SVG = "http://www.w3.org/2000/svg";

function node(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function html(name, attributes = {}, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Three significant digits, thousands apart: as the program's own tables have it.
function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  let decimals = 0;
  if (size > 0 && size < 99.95) for (decimals = 1; decimals < 6 && size < 9.995 / 10 ** (decimals - 1); decimals += 1);
  return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

function plain(value) {
  return Number(value.toFixed(3)).toLocaleString("en-US", { maximumFractionDigits: 3 });
}

function clock(seconds) {
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${two(m)}:${two(s)}`;
}

function linearTicks(min, max, count) {
  const raw = (max - min) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= raw) || 10);
  const ticks = [];
  for (let at = Math.ceil(min / step - 1e-9) * step; at <= max + step * 1e-9; at += step) ticks.push(at);
  return ticks;
}

function logTicks(min, max, count) {
  const all = [];
  for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power += 1) {
    for (const factor of [1, 2, 5]) {
      const at = factor * 10 ** power;
      if (at >= min * 0.999 && at <= max * 1.001) all.push(at);
    }
  }
  const tens = all.filter((at) => Math.abs(Math.log10(at) - Math.round(Math.log10(at))) < 1e-9);
  if (all.length > count && tens.length > 2) return tens;
  return all.length >= 2 ? all : linearTicks(min, max, 4);
}

// A scale from data to pixels.
function scale({ min, max, log }, from, to) {
  if (!(max > min)) [min, max] = log ? [min / 2, (max || 1) * 2] : [min - 1, max + 1];
  const position = log ? (v) => Math.log(v / min) / Math.log(max / min) : (v) => (v - min) / (max - min);
  const at = (value) => from + position(value) * (to - from);
  at.ticks = (count) => (log ? logTicks(min, max, count) : linearTicks(min, max, count));
  at.holds = (value) => value >= min - 1e-9 && value <= max + 1e-9;
  [at.min, at.max] = [min, max];
  return at;
}

// Reach of values with some air around it; a log scale where they span more than a decade and a half.
function reach(values, { zero = false, log } = {}) {
  const finite = values.filter((v) => Number.isFinite(v));
  if (finite.length === 0) return { min: 0, max: 1, log: false };
  let [min, max] = [finite.reduce((a, b) => Math.min(a, b)), finite.reduce((a, b) => Math.max(a, b))];
  const isLog = log === undefined ? min > 0 && max / min > 30 : log && min > 0;
  if (isLog) return { min: min / 1.15, max: max * 1.15, log: true };
  const air = (max - min || max || 1) * 0.06;
  return { min: zero ? 0 : Math.max(min >= 0 ? 0 : -Infinity, min - air), max: max + air, log: false };
}

const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.2 * r}L${1.15 * r},${r}H${-1.15 * r}z`,
  (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0z`,
  (r) => `M0,${1.2 * r}L${1.15 * r},${-r}H${-1.15 * r}z`,
];

function shape(n, x, y, r, attributes) {
  return node("path", { d: SHAPES[n % SHAPES.length](r), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, ...attributes });
}

// A frame with axes in a host element. `draw` gets it and adds marks; it is called again when the width changes.
function chart(host, { height = 340, label, x, y, margin }, draw) {
  const render = () => {
    const width = Math.max(280, host.clientWidth);
    const m = { top: 12, right: 18, bottom: 44, left: 72, ...margin };
    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-labelledby": label });
    const X = scale(x, m.left, width - m.right);
    const Y = scale(y, height - m.bottom, m.top);
    const frame = { svg, X, Y, width, height, m, marks: [] };
    for (const at of X.ticks(width / 90)) {
      svg.append(node("line", { class: "gridline", x1: X(at), x2: X(at), y1: m.top, y2: height - m.bottom }));
      svg.append(node("text", { x: X(at), y: height - m.bottom + 17, "text-anchor": "middle" }, (x.show || plain)(at)));
    }
    for (const at of y.ticks ? y.ticks() : Y.ticks(6)) {
      svg.append(node("line", { class: "gridline", y1: Y(at), y2: Y(at), x1: m.left, x2: width - m.right }));
      svg.append(node("text", { x: m.left - 8, y: Y(at) + 4, "text-anchor": "end" }, (y.show || plain)(at)));
    }
    svg.append(node("line", { class: "axis", x1: m.left, x2: width - m.right, y1: height - m.bottom, y2: height - m.bottom }));
    svg.append(node("text", { class: "strong", x: (m.left + width - m.right) / 2, y: height - 6, "text-anchor": "middle" }, x.label));
    svg.append(node("text", { class: "strong", "text-anchor": "middle", transform: `translate(11 ${(height - m.bottom + m.top) / 2}) rotate(-90)` }, y.label));
    draw(frame);
    host.querySelectorAll("svg.plot, .tip").forEach((old) => old.remove());
    svg.classList.add("plot");
    host.prepend(svg);
    reachable(host, svg, frame.marks);
  };
  render();
  if (host.watching) host.watching.disconnect();
  let last = host.clientWidth;
  host.watching = new ResizeObserver(() => {
    if (host.clientWidth !== last) {
      last = host.clientWidth;
      render();
    }
  });
  host.watching.observe(host);
}

// A mark says `text` when it is pointed at or focused.
function mark(frame, element, text) {
  element.classList.add("mark");
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", text.replaceAll("\n", ", "));
  frame.svg.append(element);
  frame.marks.push({ element, text });
}

// One stop of the Tab key for a whole chart; arrows, Home and End go on from there.
function reachable(host, svg, marks) {
  const tip = html("div", { class: "tip", "aria-hidden": "true" });
  tip.hidden = true;
  host.append(tip);
  const show = ({ element, text }) => {
    tip.textContent = text;
    tip.hidden = false;
    const [box, of] = [element.getBoundingClientRect(), host.getBoundingClientRect()];
    const left = Math.min(Math.max(0, box.left - of.left + box.width / 2 - tip.offsetWidth / 2), of.width - tip.offsetWidth);
    const above = box.top - of.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${above > -20 ? above : box.bottom - of.top + 8}px`;
  };
  const hide = () => {
    tip.hidden = true;
  };
  marks.forEach((one, index) => {
    one.element.setAttribute("tabindex", index === 0 ? "0" : "-1");
    one.element.addEventListener("mouseenter", () => show(one));
    one.element.addEventListener("mouseleave", hide);
    one.element.addEventListener("focus", () => show(one));
    one.element.addEventListener("blur", hide);
  });
  svg.addEventListener("keydown", (event) => {
    const at = marks.findIndex(({ element }) => element === document.activeElement);
    const steps = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: marks.length - 1 };
    if (event.key === "Escape") hide();
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = Math.min(Math.max(0, steps[event.key]), marks.length - 1);
    marks[at].element.setAttribute("tabindex", "-1");
    marks[next].element.setAttribute("tabindex", "0");
    marks[next].element.focus();
  });
}

function line(points, attributes) {
  const d = points.map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
  return node("path", { d, fill: "none", "stroke-width": 1.6, "stroke-linejoin": "round", ...attributes });
}

function band(points, attributes) {
  const there = points.map(([x, low]) => [x, low]);
  const back = points.map(([x, , high]) => [x, high]).reverse();
  const d = [...there, ...back].map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
  return node("path", { d: `${d}z`, class: "band", ...attributes });
}

// Upright line of a target, with its name at the top.
function targetLine(frame, ms, text) {
  if (ms === null || ms === undefined || !frame.X.holds(ms)) return;
  const { svg, X, m, height, width } = frame;
  const at = X(ms);
  svg.append(node("line", { class: "target", x1: at, x2: at, y1: m.top, y2: height - m.bottom }));
  const right = at > width * 0.7;
  svg.append(node("text", { class: "target", x: at + (right ? -6 : 6), y: m.top + 11, "text-anchor": right ? "end" : "start" }, text));
}

// A level line, likewise.
function limitLine(frame, value, text) {
  if (!frame.Y.holds(value)) return;
  const { svg, Y, m, width } = frame;
  svg.append(node("line", { class: "target", x1: m.left, x2: width - m.right, y1: Y(value), y2: Y(value) }));
  svg.append(node("text", { class: "target", x: width - m.right, y: Y(value) - 5, "text-anchor": "end" }, text));
}

function legend(host, entries) {
  host.querySelectorAll(".legend").forEach((old) => old.remove());
  const list = html("ul", { class: "legend", "aria-hidden": "true" });
  for (const { name, color, form } of entries) {
    const item = html("li");
    const picture = node("svg", { viewBox: "0 0 16 12", "aria-hidden": "true" });
    picture.append(form === "box" ? node("rect", { x: 1, y: 1, width: 14, height: 10, fill: color }) : shape(form, 8, 6, 4.5, { fill: color }));
    item.append(picture, document.createTextNode(name));
    list.append(item);
  }
  host.append(list);
}
