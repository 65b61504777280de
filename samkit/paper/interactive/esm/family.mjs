// The family on one loss of two weights: where each member comes to, beside plain descent.
import { COLORS, arrow, label, line, mount, num, path, tag } from "./kit.mjs";

// L(u, v) = (uv - 1)^2 / 2: a valley along uv = 1, with u^2 + v^2 for its curvature
export const RATE = 0.1;
export const gradient = ([u, v]) => [v * (u * v - 1), u * (u * v - 1)];
const loss = ([u, v]) => (u * v - 1) ** 2 / 2;
const curvature = ([u, v]) => u * u + v * v;

const inverse = (x) => (x > 0 ? 1 / x : 0);
const added = (a, b, factor) => a.map((x, i) => x + factor * b[i]);
const times = (a, factor) => a.map((x) => x * factor);
/** What of a is orthogonal to b. */
function orthogonal(a, b) {
  const u = times(b, inverse(Math.hypot(...b)));
  return added(a, u, -(a[0] * u[0] + a[1] * u[1]));
}

// As samkit.SAM's options; combine: (the gradient at w, SAM's) -> the one that is descended.
const MEMBERS = {
  SAM: {},
  "the theory's SAM": { normalize: false },
  ASAM: { adaptive: true },
  GSAM: { combine: (g, sam) => added(sam, orthogonal(g, sam), -0.2) },
  WSAM: { combine: (g, sam) => added(times(sam, 4), g, -3) },
  LookSAM: { interval: 5, reuse: 0.2 },
  "SAM in every other step": { interval: 2 },
  "SAM's step size alone": { combine: (g, sam) => times(g, Math.hypot(...sam) * inverse(Math.hypot(...g))) },
};

/** The radius along each weight. */
const radii = (w, rho, { adaptive }) => w.map((x) => (adaptive ? rho * (Math.abs(x) + 0.01) : rho));

/** The move uphill. */
export function move(w, g, rho, options) {
  if (options.normalize === false) return times(g, rho);
  const T = radii(w, rho, options);
  const scale = inverse(Math.hypot(...g.map((x, i) => T[i] * x)));
  return g.map((x, i) => T[i] * T[i] * x * scale);
}

/** {points, gradients}: the weights before and after every step, and how many gradients they took. */
function descend(start, steps, rho, options) {
  const points = [start];
  let gradients = 0;
  let part;
  for (let k = 0; k < steps; k++) {
    const w = points[k];
    const g = gradient(w);
    let step = g;
    gradients++;
    if (options && k % (options.interval ?? 1) === 0) {
      const sam = gradient(added(w, move(w, g, rho, options), 1));
      gradients++;
      if (options.reuse) part = orthogonal(sam, g);
      step = options.combine ? options.combine(g, sam) : sam;
    } else if (part) {
      step = added(g, part, options.reuse * Math.hypot(...g) * inverse(Math.hypot(...part)));
    }
    points.push(added(w, step, -RATE));
  }
  return { points, gradients };
}

export function compute({ member, rho, u, v, steps }) {
  const plain = descend([u, v], steps);
  const own = descend([u, v], steps, rho, MEMBERS[member]);
  const uphill = move([u, v], gradient([u, v]), rho, MEMBERS[member]);
  return { plain, own, uphill };
}

const U = [-0.4, 3.3];
const V = [-0.4, 1.7];
function layout(width) {
  const unit = (width - 8) / (U[1] - U[0]);
  return {
    unit,
    height: unit * (V[1] - V[0]) + 8,
    x: (u) => 4 + unit * (u - U[0]),
    y: (v) => 4 + unit * (V[1] - v),
  };
}
const last = (run) => run.points.at(-1);
const place = ([u, v]) => `(${num(u)}, ${num(v)})`;

const figure = {
  name: "family",
  title: "One valley, and where each member of the family goes in it",
  controls: [
    { name: "rho", label: "radius ρ", kind: "range", min: 0, max: 0.4, steps: 40, value: 0.1 },
    { name: "member", label: "member", kind: "choice", options: Object.keys(MEMBERS), value: "SAM" },
    { name: "steps", label: "steps", kind: "range", whole: true, min: 1, max: 400, value: 200 },
    { name: "u", label: "start, u", kind: "range", min: 1, max: 3, steps: 200, value: 2.4 },
    { name: "v", label: "start, v", kind: "range", min: 0, max: 1, steps: 100, value: 0.1 },
  ],
  main: ["rho", "member"],
  presets: [
    { label: "SAM", state: {} },
    { label: "The theory’s SAM stops at the bottom", state: { member: "the theory's SAM" } },
    { label: "LookSAM for fewer gradients", state: { member: "LookSAM" } },
    { label: "WSAM too far", state: { member: "WSAM", rho: 0.4 } },
  ],
  compute,
  accent: () => COLORS["n-SAM"],
  drag: {
    start: (state, px, py, result, width) => {
      const { unit } = layout(width);
      return { u: Number((U[0] + (px - 4) / unit).toFixed(2)), v: Number((V[1] - (py - 4) / unit).toFixed(2)) };
    },
  },
  draw(state, result, width) {
    const { unit, height, x, y } = layout(width);
    const inside = ([u, v]) => (u >= U[0] && u <= U[1] && v >= V[0] && v <= V[1] ? [x(u), y(v)] : [NaN, NaN]);
    const hyperbola = (c) => Array.from({ length: 121 }, (_, k) => U[1] * 0.01 ** (k / 120)).map((u) => inside([u, c / u]));
    let body = tag("rect", { x: x(U[0]), y: y(V[1]), width: x(U[1]) - x(U[0]), height: y(V[0]) - y(V[1]), fill: "none", stroke: "currentColor", "stroke-opacity": 0.3 });
    for (const away of [0.3, 0.6, 0.9]) {
      for (const c of [1 - away, 1 + away]) body += path(hyperbola(c), { stroke: "currentColor", "stroke-width": 1, "stroke-opacity": 0.3 });
    }
    body += path(hyperbola(1), { stroke: "currentColor", "stroke-width": 1.5, "stroke-dasharray": "5 4" });
    body += tag("circle", { cx: x(1), cy: y(1), r: 4, fill: "none", stroke: "currentColor", "stroke-width": 1.5 });
    body += label(x(1) + 10, y(1) - 8, "the flattest place, (1, 1)", { "font-size": 12 });
    body += label(x(U[0]) + 8, y(V[0]) - 24, "dashed: the bottom of the valley, uv = 1", { "font-size": 12 });
    body += label(x(U[0]) + 8, y(V[0]) - 8, `grey: plain descent; blue: ${state.member}`, { "font-size": 12 });
    body += path(result.plain.points.map(inside), line("ERM"));
    body += path(result.own.points.map(inside), { stroke: COLORS["n-SAM"], "stroke-width": 1.5 });
    const [sx, sy] = [x(state.u), y(state.v)];
    const [rx, ry] = radii([state.u, state.v], state.rho, MEMBERS[state.member]).map((radius) => radius * unit);
    body += tag("ellipse", { cx: sx, cy: sy, rx, ry, fill: "currentColor", "fill-opacity": 0.07, stroke: "currentColor", "stroke-dasharray": "3 3" });
    body += arrow(sx, sy, sx + unit * result.uphill[0], sy - unit * result.uphill[1], COLORS["n-SAM"], { "stroke-width": 3 });
    for (const [run, fill] of [[result.plain, COLORS.ERM], [result.own, COLORS["n-SAM"]]]) {
      const [cx, cy] = inside(last(run));
      body += tag("circle", { cx, cy, r: 6, fill });
    }
    body += tag("g", { "data-drag": "start" }, tag("circle", { cx: sx, cy: sy, r: 15, fill: "transparent" }) + tag("circle", { cx: sx, cy: sy, r: 4, fill: "currentColor" }));
    return { height, body };
  },
  tell: (state, { plain, own }) => {
    const end = last(own);
    const where = loss(end) > 0.1
      ? `has left the bottom of the valley: the loss is ${num(loss(end), 2)}`
      : `is where the valley has the curvature ${num(curvature(end), 2)}`;
    return (
      `After ${state.steps} steps ${state.member} ${where}. Plain descent is at ${num(curvature(last(plain)), 2)}; ` +
      `the flattest place of the bottom has 2. The steps took ${own.gradients} gradients, those of plain descent ${plain.gradients}.`
    );
  },
  alt: (state, { plain, own }) =>
    `The loss of two weights as a valley along uv = 1. From (${num(state.u)}, ${num(state.v)}) plain descent comes to ` +
    `${place(last(plain))}, ${state.member} with radius ${num(state.rho)} to ${place(last(own))}.`,
  say: (state, { plain, own }) =>
    [["plain descent", plain], [state.member, own]].map(([name, run]) => [
      name,
      `(u, v) = ${place(last(run))}, loss ${num(loss(last(run)), 2)}, u² + v² = ${num(curvature(last(run)))}`,
    ]),
};

export default mount(figure);
