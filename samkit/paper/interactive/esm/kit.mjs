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
//   tell        optional (state, result) -> what one sees, in everyday words
//   headline    optional: true if these words stand above the picture, and not below the slider
//   say         (state, result) -> [[label, text], ...]: the numbers, under "more"
//   main        optional names of the controls directly under the picture; the first if left out.
//               The others are under "more"
//   align       optional (width) -> {left, right}: the ends of the first slider, in the picture
//   accent      optional (state, result) -> the colour of the sliders
//   drag        optional {handle: (state, x, y, result, width) -> changes}, x and y in pixels; in
//               the drawing <g data-drag="handle">; each has a control too, for the keyboard
//   tick        optional (state, result) -> result: one frame of an animation, with a play button;
//               undefined at its end; `rewind`: the changes after which it can be played again
//   film        optional instead of tick: (seconds) -> changes of the drawn state, undefined at its
//               end; `at` among them is where the first slider stands
//   rolls       optional: true if the film plays once by itself
//   patient     optional: true if what it computes takes longer than the first picture may wait
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
  if (!Number.isFinite(x)) return "diverges";
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

/** An SVG element; `inside` is markup. Nothing where a number is not finite: that has no place. */
export const tag = (name, given = {}, inside = "") =>
  Object.values(given).some((value) => typeof value === "number" && !Number.isFinite(value))
    ? ""
    : `<${name}${attributes(given)}>${inside}</${name}>`;

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
      else if (`${value}`.trim() === "" || !Number.isFinite(Number(value))) value = c.value;
      else if (c.stops) value = c.stops.includes(Number(value)) ? Number(value) : c.value;
      else {
        value = clamp(Number(value), c.min, c.max);
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

/** The state of such a text. A part that is no `name:value` spoils the one before it: "rho:0,5". */
export function decode(figure, text) {
  const given = {};
  let last;
  for (const part of (text ?? "").split(",")) {
    const [name, value, more] = part.split(":");
    if (value === undefined || more !== undefined) delete given[last];
    else given[(last = name)] = value;
  }
  return valid(figure, given);
}

// In the page

/**
 * One control. A range has min, max, and either `steps` between them (evenly, or evenly in the
 * logarithm with log: true), or whole: true for whole numbers; or `stops`, the values themselves
 * from left to right. show: (value, state) -> text. A choice has options, texts without commas or colons.
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
  const { steps, place, value } = scaleOf(c);
  const input = element("input", { type: "range", id, min: 0, max: steps, step: 1 });
  const output = element("output", { for: id });
  const text = c.show ?? ((value) => num(value));
  input.addEventListener("input", () => changed(value(Number(input.value))));
  row.append(caption, input, output);
  return {
    row,
    input,
    show: (value, state) => {
      input.value = Math.round(place(value));
      output.textContent = text(value, state);
      input.setAttribute("aria-valuetext", text(value, state));
    },
  };
}

/** A range in whole steps of its slider: how many, and the way from a value and back. */
function scaleOf(c) {
  if (c.stops) {
    return { steps: c.stops.length - 1, place: (x) => c.stops.indexOf(x), value: (k) => c.stops[k] };
  }
  const [f, back] = c.log ? [Math.log, Math.exp] : [(x) => x, (x) => x];
  const steps = c.whole ? c.max - c.min : (c.steps ?? 100);
  const [low, high] = [f(c.min), f(c.max)];
  return {
    steps,
    place: (x) => ((f(x) - low) / (high - low)) * steps,
    value: (k) => {
      const z = low + (k / steps) * (high - low);
      return c.whole ? Math.round(z) : Number(back(z).toPrecision(4));
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
const QUIET = 600; // ms without a change, after which the result is announced
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** A figure as `{render({model, el})}`: anywidget's contract. Without a model, the address keeps the state. */
export const mount = (figure) => ({
  figure,
  render({ model, el }) {
    const prefix = `samkit-${figure.name}-${mounted++}`;
    const given = model ? model.get("state") : (JSON.parse(el.dataset.state || "{}"));
    const start = valid(figure, { ...defaults(figure), ...given });
    const address = () => new URLSearchParams(location.search).get(figure.name);
    const inAddress = () => (address() === null ? { ...start } : decode(figure, address()));
    let state = model ? { ...start } : inAddress();
    let stale = true; // the state has changed, what is computed has not
    let work; // what is being computed: {state, steps}
    let seen = {}; // what was computed last: {state, result}
    let playing = false;

    const root = element("section", { class: "samkit-interactive", "aria-label": figure.title });
    const view = element("div", { class: "samkit-view" });
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", figure.title);
    const before = el.querySelector?.("svg"); // the picture for pages without scripts, until the first result
    if (before) {
      for (const name of ["viewBox", "aria-label"]) picture.setAttribute(name, before.getAttribute(name));
      picture.innerHTML = before.innerHTML;
    }
    view.append(picture);
    const main = element("div", { class: "samkit-main" });
    const buttons = element("div", { class: "samkit-buttons" });
    const words = element("p", { class: "samkit-words" });
    const panel = element("div", { class: "samkit-controls" });
    const numbers = element("dl", { class: "samkit-numbers" });
    const more = element("details", { class: "samkit-more" });
    const foot = element("div", { class: "samkit-buttons" });
    const summary = element("summary", {}, "More controls and numbers");
    more.append(summary, panel, numbers, foot);
    const spoken = element("div", { class: "samkit-spoken", role: "status" });
    root.append(element("p", { class: "samkit-title" }, figure.title));
    if (figure.headline) root.append(words);
    root.append(view, main, buttons, ...(figure.tell && !figure.headline ? [words] : []), more, spoken);
    el.replaceChildren(root);

    let slider; // of the first control
    const first = figure.main ?? [figure.controls[0].name];
    const shown = figure.controls
      .filter((c) => c.kind !== "hidden")
      .map((c) => {
        const made = control(c, `${prefix}-${c.name}`, (value) => {
          pause();
          change(c.set ? c.set(state, value) : { [c.name]: value });
        });
        (first.includes(c.name) ? main : panel).append(made.row);
        if (c.name === first[0]) slider = made.input;
        return (at = state) => made.show(c.get ? c.get(at) : at[c.name], at);
      });
    const button = (text, action, row = buttons) => {
      const made = element("button", { type: "button" }, text);
      made.addEventListener("click", () => action(made));
      row.append(made);
      return made;
    };
    if (!panel.hasChildNodes()) summary.textContent = "The numbers";
    let play;
    if (figure.tick || figure.film) play = button("Play", () => (playing ? pause() : run()));
    if (figure.tick) button("Step", () => { pause(); advance(); show(); }, foot);
    const presets = (figure.presets ?? []).map((preset) => {
      const wanted = valid(figure, { ...defaults(figure), ...preset.state });
      const made = button(preset.label, () => { pause(); change(wanted, !!figure.tick); });
      const same = (at) => entries(figure).every((c) => wanted[c.name] === at[c.name]);
      return (at = state) => made.setAttribute("aria-pressed", same(at));
    });
    button("Reset", () => { pause(); change(start, !!figure.tick); }, foot);
    if (!model) {
      button("Copy a link to this state", async (made) => {
        keepNow();
        await navigator.clipboard?.writeText(location.href);
        made.textContent = navigator.clipboard ? "Copied" : "The link is in the address bar";
        setTimeout(() => (made.textContent = "Copy a link to this state"), 2000);
      }, foot);
    }
    for (const part of root.querySelectorAll("input, select, button, summary")) {
      part.dataset.lmSuppressShortcuts = ""; // JupyterLab would keep the arrow keys for itself
    }

    let frame = 0;
    let announce;
    function change(changes, again = false) {
      const next = valid(figure, { ...state, ...changes });
      const moved = entries(figure).filter((c) => next[c.name] !== state[c.name]);
      if (!again && moved.length === 0) return;
      state = next;
      stale ||= again || !moved.every((c) => c.keeps);
      frame ||= requestAnimationFrame(refresh);
      keep();
      clearTimeout(announce);
      announce = setTimeout(speak, QUIET);
    }
    function speak() {
      if (work || stale) announce = setTimeout(speak, QUIET);
      else spoken.textContent = (figure.tell ?? figure.alt)(seen.state, seen.result);
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
      for (const update of [...shown, ...presets]) update({ ...state, ...still });
      if (seen.result !== undefined && seen !== drawn) show();
      root.setAttribute("aria-busy", !!work);
      if (work) frame = requestAnimationFrame(refresh);
      else if (waitsForFilm) rollWhenSeen();
    }
    function show(frozen = still) {
      drawn = seen;
      const state = { ...seen.state, ...frozen };
      const { result } = seen;
      const width = clamp(view.clientWidth || 640, 280, 860);
      const { height, body } = figure.draw(state, result, width);
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      picture.setAttribute("width", width);
      picture.setAttribute("height", height);
      picture.setAttribute("aria-label", figure.alt(seen.state, result));
      picture.innerHTML = body;
      if (figure.tell) words.textContent = figure.tell(state, result);
      if (figure.accent) root.style.setProperty("--accent", figure.accent(state, result));
      if (figure.align && slider) {
        const { left, right } = figure.align(width);
        Object.assign(slider.style, { marginLeft: `${left - 11}px`, width: `${right - left + 22}px` });
      }
      numbers.replaceChildren(
        ...figure.say(seen.state, result).map(([name, text]) => {
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
      waiting = setTimeout(keepNow, 250);
    }
    function keepNow() {
      clearTimeout(waiting);
      const address = new URL(location.href);
      const text = encode(figure, state);
      if (text === encode(figure, start)) address.searchParams.delete(figure.name);
      else address.searchParams.set(figure.name, text);
      if (address.href !== location.href) history.replaceState(history.state, "", address);
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
      if (figure.rewind && !advance()) {
        change(figure.rewind, true);
        compute(Infinity);
      }
      playing = true;
      play.textContent = "Pause";
      // who prefers little motion gets a picture a second
      const between = calm() ? 1000 : 0;
      let [began, ending, last] = [undefined, undefined, -Infinity];
      const next = (now) => {
        if (!playing || !root.isConnected) return;
        began ??= now;
        const frozen = figure.film?.((now - began) / 1000);
        if (figure.film ? !frozen : !advance()) {
          pause();
          if (ending) change(ending);
          return;
        }
        if (now >= last + between) {
          show(frozen);
          if (frozen) {
            ending = frozen;
            for (const update of [...shown, ...presets]) update({ ...state, ...frozen });
            if (slider) Object.assign(slider, { step: "any", value: frozen.at });
          }
          last = now;
        }
        requestAnimationFrame(next);
      };
      requestAnimationFrame(next);
    }
    function pause() {
      waitsForFilm = false;
      inSight?.disconnect();
      if (!playing && !still) return;
      playing = false;
      still = undefined;
      play.textContent = "Play";
      if (slider) slider.step = 1;
      for (const update of [...shown, ...presets]) update();
      show();
    }
    // A film is shown once by itself, when the picture is in sight, to who does not mind motion,
    // unless a state was asked for. Its first frame waits there.
    let waitsForFilm = !model && figure.rolls && !calm() && address() === null && Object.keys(given).length === 0;
    let still = waitsForFilm ? figure.film(0) : undefined;
    let inSight;
    function rollWhenSeen() {
      waitsForFilm = false;
      inSight = new IntersectionObserver(([{ isIntersecting }]) => {
        if (!isIntersecting) return;
        inSight.disconnect();
        run();
      }, { threshold: 0.4 });
      inSight.observe(picture);
    }
    for (const kind of ["pointerdown", "keydown"]) {
      root.addEventListener(kind, (event) => {
        if (figure.film && event.target !== play) pause();
      });
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
    const back = () => change(inAddress());
    if (!model) addEventListener("popstate", back);
    const resized = new ResizeObserver(() => !playing && seen.result !== undefined && show());
    resized.observe(view);
    if (!figure.patient) compute(Infinity);
    refresh();
    keep();
    return () => {
      playing = false;
      removeEventListener("popstate", back);
      inSight?.disconnect();
      resized.disconnect();
    };
  },
});
