// What every interactive figure shares: controls, presets, the state in the page's address, axes.
//
// A figure is a plain object:
//   name        of its file, and of its entry in the address
//   title       a short heading
//   controls    [{name, label, kind: "range" | "choice" | "toggle", value, ...}], see `control`;
//               kind "hidden": a text in the state that no control shows, check: (text) -> text;
//               with get: (state) -> value and set: (state, value) -> changes instead of a value, a
//               control of other entries; keeps: true if the result stays when it changes
//   presets     [{label, state}]: "show me" buttons; what a state leaves out is the default
//   compute     (state) -> result: numbers only, no drawing, the same as samkit's in Python
//   slices      optional, where compute takes more than a frame: (state) -> a generator that yields
//               every millisecond or so and returns the result; the page stays in motion meanwhile
//   draw        (state, result, width) -> {height, body}: the inside of an SVG of that width
//   alt         (state, result) -> the picture in a sentence
//   say         (state, result) -> [[label, text], ...]: the numbers beside the picture
//   drag        optional {handle: (state, x, y, result, width) -> changes}, x and y in pixels; in
//               the drawing <g data-drag="handle">; each has a control too, for the keyboard
//   tick        optional (state, result) -> result: one frame of an animation, with a play button;
//               undefined at its end
// `mount(figure)` makes it the default export of an anywidget, and of a static page.

export const COLORS = {
  ERM: "#808080",
  "n-SAM": "#0072B2",
  "m-SAM": "#009E73",
  "1-SAM": "#D55E00",
  random: "#B5659A",
};
export const DASHES = { ERM: "", "n-SAM": "8 4", "m-SAM": "10 3 2 3", "1-SAM": "", random: "2 4" };

export const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** x with some significant digits, powers of ten as such. */
export function num(x, digits = 3) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "not a number" : x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(x)));
  if (size >= -3 && size < 5) return minus(`${Number(x.toPrecision(digits))}`);
  const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
  const power = `10${superscript(Number(exponent))}`;
  if (Math.abs(mantissa) === 1) return x < 0 ? `−${power}` : power;
  return minus(`${Number(mantissa)} · ${power}`);
}
const minus = (text) => text.replace(/-/g, "−");
const superscript = (k) => [...`${k}`].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");

// Drawing: everything is text, so that a page without scripts can carry the same picture.

export const escape = (text) =>
  `${text}`.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

const attributes = (given) =>
  Object.entries(given)
    .filter(([, value]) => value !== undefined && value !== "")
    .map(([name, value]) => ` ${name}="${typeof value === "number" ? round(value) : escape(value)}"`)
    .join("");
const round = (x) => Math.round(x * 100) / 100;

/** An SVG element; `inside` is markup. */
export const tag = (name, given = {}, inside = "") => `<${name}${attributes(given)}>${inside}</${name}>`;

export const label = (x, y, text, given = {}) =>
  tag("text", { x, y, "font-size": 13, fill: "currentColor", ...given }, escape(text));

/** A line through [x, y] pixels; points that are not finite are left out. */
export function path(points, given = {}) {
  const d = points
    .filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y))
    .map(([x, y], k) => `${k ? "L" : "M"}${round(x)} ${round(y)}`)
    .join("");
  return tag("path", { d, fill: "none", "stroke-width": 2, ...given });
}

/** The look of a method's line. */
export const line = (method, more = {}) => ({
  stroke: COLORS[method],
  "stroke-dasharray": DASHES[method],
  "stroke-width": method === "ERM" ? 4 : 2.2,
  ...more,
});

export function arrow(x0, y0, x1, y1, color, given = {}) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (!(length > 0.5)) return "";
  const [a, b] = [(x1 - x0) / length, (y1 - y0) / length];
  const head = Math.min(8, length);
  const back = [x1 - head * a, y1 - head * b];
  const tip = [
    [x1, y1],
    [back[0] - 0.45 * head * b, back[1] + 0.45 * head * a],
    [back[0] + 0.45 * head * b, back[1] - 0.45 * head * a],
  ];
  return (
    path([[x0, y0], back], { stroke: color, ...given }) +
    tag("polygon", { points: tip.map((p) => p.map(round).join(",")).join(" "), fill: color })
  );
}

/** Scales and a frame with ticks: box = {left, top, right, bottom}, x and y = {range, log, label, ticks}. */
export function axes(box, x, y) {
  const scale = ({ range: [low, high], log }, from, to) => {
    const f = log ? Math.log10 : (value) => value;
    return {
      at: (value) => from + ((f(value) - f(low)) / (f(high) - f(low))) * (to - from),
      inverse: (pixel) => {
        const z = f(low) + ((pixel - from) / (to - from)) * (f(high) - f(low));
        return log ? 10 ** z : z;
      },
    };
  };
  const X = scale(x, box.left, box.right);
  const Y = scale(y, box.bottom, box.top);
  const faint = { stroke: "currentColor", "stroke-opacity": 0.15, "stroke-width": 1 };
  let body = "";
  for (const value of x.ticks ?? ticks(x, (box.right - box.left) / 70)) {
    const at = X.at(value);
    body += path([[at, box.top], [at, box.bottom]], faint);
    body += label(at, box.bottom + 17, num(value, 2), { "text-anchor": "middle", "font-size": 12 });
  }
  for (const value of y.ticks ?? ticks(y, (box.bottom - box.top) / 40)) {
    const at = Y.at(value);
    body += path([[box.left, at], [box.right, at]], faint);
    body += label(box.left - 6, at + 4, num(value, 2), { "text-anchor": "end", "font-size": 12 });
  }
  const solid = { stroke: "currentColor", "stroke-width": 1 };
  body += path([[box.left, box.top], [box.left, box.bottom], [box.right, box.bottom]], solid);
  const middle = (box.left + box.right) / 2;
  if (x.label) body += label(middle, box.bottom + 34, x.label, { "text-anchor": "middle" });
  if (y.label) body += label(box.left - 30, box.top - 9, y.label);
  return { x: X.at, y: Y.at, inverseX: X.inverse, inverseY: Y.inverse, body };
}

/** Round numbers, or powers of ten, about `count` of them. */
export function ticks({ range: [low, high], log }, count) {
  if (log) {
    const [a, b] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const step = Math.max(1, Math.ceil((b - a + 1) / Math.max(2, count)));
    return Array.from({ length: Math.floor((b - a) / step) + 1 }, (_, k) => 10 ** (a + k * step));
  }
  const rough = (high - low) / Math.max(2, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from(
    { length: Math.floor(high / step + 1e-9) - first + 1 },
    (_, k) => Number(((first + k) * step).toPrecision(12)),
  );
}

// State

const entries = (figure) => figure.controls.filter((c) => !c.get);

/** The state that a figure starts from. */
export const defaults = (figure) => Object.fromEntries(entries(figure).map((c) => [c.name, c.value]));

/** A state with every entry of its control's kind and within its range; the rest is ignored. */
export function valid(figure, state = {}) {
  return Object.fromEntries(
    entries(figure).map((c) => {
      let value = state[c.name] ?? c.value;
      if (c.kind === "hidden") value = c.check(`${value}`);
      else if (c.kind === "toggle") value = value === true || value === "true";
      else if (c.kind === "choice") value = c.options.find((o) => `${o}` === `${value}`) ?? c.value;
      else {
        value = Number(value);
        value = Number.isFinite(value) ? clamp(value, c.min, c.max) : c.value;
        if (c.whole) value = Math.round(value);
      }
      return [c.name, value];
    }),
  );
}

/** A state as text for the address: only what differs from the default. */
export const encode = (figure, state) =>
  entries(figure)
    .filter((c) => state[c.name] !== c.value)
    .map((c) => `${c.name}:${state[c.name]}`)
    .join(",");

export const decode = (figure, text) =>
  valid(figure, Object.fromEntries((text ?? "").split(",").map((part) => part.split(":"))));

// In the page

/**
 * One control. A range has min, max, and either `steps` between them (evenly, or evenly in the
 * logarithm with log: true), or whole: true for whole numbers; show: (value) -> text.
 * A choice has options.
 */
function control(c, id, changed) {
  const row = element("div", { class: "samkit-control" });
  const caption = element("label", { for: id }, c.label);
  if (c.kind === "toggle") {
    const input = element("input", { type: "checkbox", id });
    input.addEventListener("input", () => changed(input.checked));
    row.append(input, caption);
    return { row, show: (value) => (input.checked = value) };
  }
  if (c.kind === "choice") {
    const select = element("select", { id });
    for (const option of c.options) select.append(element("option", { value: option }, `${option}`));
    select.addEventListener("input", () => changed(c.options[select.selectedIndex]));
    row.append(caption, select);
    return { row, show: (value) => (select.selectedIndex = c.options.indexOf(value)) };
  }
  const f = c.log ? Math.log : (x) => x;
  const back = c.log ? Math.exp : (x) => x;
  const steps = c.whole ? c.max - c.min : (c.steps ?? 100);
  const input = element("input", { type: "range", id, min: 0, max: steps, step: 1 });
  const output = element("output", { for: id });
  const text = c.show ?? ((value) => num(value));
  input.addEventListener("input", () => {
    const z = f(c.min) + (Number(input.value) / steps) * (f(c.max) - f(c.min));
    changed(c.whole ? Math.round(z) : Number(back(z).toPrecision(4)));
  });
  row.append(caption, input, output);
  return {
    row,
    show: (value) => {
      input.value = Math.round(((f(value) - f(c.min)) / (f(c.max) - f(c.min))) * steps);
      output.textContent = text(value);
      input.setAttribute("aria-valuetext", text(value));
    },
  };
}

function element(name, given = {}, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

let mounted = 0;
const SLICE = 9; // ms of a frame to compute in; the rest is for drawing

/** A figure as `{render({model, el})}`: anywidget's contract. Without a model, the address keeps the state. */
export const mount = (figure) => ({
  figure,
  render({ model, el }) {
    const prefix = `samkit-${figure.name}-${mounted++}`;
    const given = model ? model.get("state") : (JSON.parse(el.dataset.state || "{}"));
    const start = valid(figure, { ...defaults(figure), ...given });
    const address = () => new URLSearchParams(location.search).get(figure.name);
    let state = !model && address() !== null ? decode(figure, address()) : { ...start };
    let stale = true; // the state has changed, what is computed has not
    let work; // what is being computed: {state, steps}
    let seen = {}; // what was computed last: {state, result}
    let playing = false;

    const root = element("section", { class: "samkit-interactive", "aria-label": figure.title });
    const panel = element("div", { class: "samkit-controls" });
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("role", "img");
    const numbers = element("dl", { class: "samkit-numbers" });
    const buttons = element("div", { class: "samkit-buttons" });
    const view = element("div", { class: "samkit-view" });
    view.append(picture, numbers);
    root.append(element("p", { class: "samkit-title" }, figure.title), view, panel, buttons);
    el.replaceChildren(root);

    const shown = figure.controls
      .filter((c) => c.kind !== "hidden")
      .map((c) => {
        const made = control(c, `${prefix}-${c.name}`, (value) =>
          change(c.set ? c.set(state, value) : { [c.name]: value }),
        );
        panel.append(made.row);
        return () => made.show(c.get ? c.get(state) : state[c.name]);
      });
    const button = (text, action) => {
      const made = element("button", { type: "button" }, text);
      made.addEventListener("click", () => action(made));
      buttons.append(made);
      return made;
    };
    let play;
    if (figure.tick) {
      play = button("Play", () => (playing ? pause() : run()));
      button("Step", () => { pause(); advance(); show(); });
    }
    for (const preset of figure.presets ?? []) {
      button(preset.label, () => change({ ...start, ...preset.state }, true));
    }
    button("Reset", () => { pause(); change(start, true); });
    for (const part of root.querySelectorAll("input, select, button")) {
      part.dataset.lmSuppressShortcuts = ""; // JupyterLab would keep the arrow keys for itself
    }

    let frame = 0;
    function change(changes, again = false) {
      const next = valid(figure, { ...state, ...changes });
      const moved = entries(figure).filter((c) => next[c.name] !== state[c.name]);
      if (!again && moved.length === 0) return;
      state = next;
      stale ||= again || !moved.every((c) => c.keeps);
      frame ||= requestAnimationFrame(refresh);
      keep();
    }
    const slices = figure.slices ?? function* (state) { return figure.compute(state); };
    /** Computes until a time in ms, or until what is seen is that of the state. */
    function compute(until) {
      while (work || stale) {
        if (!work) {
          work = { state, steps: slices(state) };
          stale = false;
        }
        let step;
        do step = work.steps.next();
        while (!step.done && performance.now() < until);
        if (!step.done) return;
        seen = { state: work.state, result: step.value };
        work = undefined;
      }
      if (seen.state !== state) seen = { state, result: seen.result }; // a control that `keeps`
    }
    let drawn;
    function refresh() {
      frame = 0;
      compute(performance.now() + SLICE);
      for (const update of shown) update();
      if (seen !== drawn) show();
      root.setAttribute("aria-busy", !!work);
      if (work) frame = requestAnimationFrame(refresh);
    }
    function show() {
      const { state, result } = (drawn = seen);
      const width = clamp(view.clientWidth || 640, 280, 760);
      const { height, body } = figure.draw(state, result, width);
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      picture.setAttribute("width", width);
      picture.setAttribute("height", height);
      picture.setAttribute("aria-label", figure.alt(state, result));
      picture.innerHTML = body;
      numbers.replaceChildren(
        ...figure.say(state, result).map(([name, text]) => {
          const pair = element("div");
          pair.append(element("dt", {}, name), element("dd", {}, text));
          return pair;
        }),
      );
    }
    let waiting = 0;
    function keep() {
      if (model) {
        model.set("state", state);
        model.save_changes();
        return;
      }
      clearTimeout(waiting); // browsers limit how often an address may change
      waiting = setTimeout(() => {
        const address = new URL(location.href);
        const text = encode(figure, state);
        const plain = encode(figure, start);
        if (text === plain) address.searchParams.delete(figure.name);
        else address.searchParams.set(figure.name, text);
        history.replaceState(history.state, "", address);
      }, 250);
    }
    /** One frame further, without drawing it; false at the end. */
    function advance() {
      compute(Infinity);
      const next = figure.tick(state, seen.result);
      if (next === undefined) return false;
      seen = { state, result: next };
      return true;
    }
    function run() {
      playing = true;
      play.textContent = "Pause";
      // who prefers little motion gets a picture a second
      const between = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 0;
      let last = -Infinity;
      const next = (now) => {
        if (!playing || !root.isConnected) return;
        if (!advance()) return pause();
        if (now >= last + between) {
          show();
          last = now;
        }
        requestAnimationFrame(next);
      };
      requestAnimationFrame(next);
    }
    function pause() {
      if (!playing) return;
      playing = false;
      play.textContent = "Play";
      show();
    }

    let held;
    picture.addEventListener("pointerdown", (event) => {
      held = event.target.closest("[data-drag]")?.dataset.drag;
      if (!held) return;
      event.preventDefault();
      picture.setPointerCapture(event.pointerId);
    });
    picture.addEventListener("pointermove", (event) => {
      if (!held) return;
      const box = picture.getBoundingClientRect();
      const scale = Number(picture.getAttribute("width")) / box.width;
      const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      const [handle, index] = held.split(".");
      const width = Number(picture.getAttribute("width"));
      change(figure.drag[handle](state, x, y, seen.result, width, index));
    });
    // touch-action does not know the parts of a drawing: here a finger drags, beside them it scrolls
    const hold = (event) => event.target.closest("[data-drag]") && event.preventDefault();
    picture.addEventListener("touchstart", hold, { passive: false });
    const drop = () => (held = undefined);
    picture.addEventListener("pointerup", drop);
    picture.addEventListener("pointercancel", drop);

    model?.on("change:state", () => change(model.get("state")));
    const resized = new ResizeObserver(show);
    resized.observe(view);
    compute(Infinity);
    refresh();
    keep();
    return () => {
      playing = false;
      resized.disconnect();
    };
  },
});
