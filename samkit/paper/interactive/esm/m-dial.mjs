// The m dial: two weights, eight examples, and a perturbation for every m of them.
import { arrow, axes, clamp, label, line, mount, num, path, tag } from "./kit.mjs";
import { loss, train } from "./diagonal.mjs";

// f(x) = u v x. The noise is at right angles to x, so that u v = 1 is best whatever its size.
export const x = [1.2, 0.8, 1.0, 0.6, 1.4, 0.9, 1.1, 1.0];
export const noise = [1.0, -1.5, 0.7, -1.0, -0.7, 1.0, 0.2, -0.24];
const STEPS = 3000;
const STEP_SIZE = 0.05;
const EVERY = 5;
const METHODS = ["ERM", "n-SAM", "m-SAM", "1-SAM"];

export const problem = (size) => ({
  X: x.map((value) => [value]),
  y: x.map((value, i) => value + size * noise[i]),
});

/** Each group's move (du, dv) at w = (u, v): rho times the gradient of its mean loss. */
export function moves({ X, y }, [u, v], rho, m) {
  const found = [];
  for (let first = 0; first < y.length; first += m) {
    const group = y.slice(first, first + m).map((value, k) => {
      const value_x = X[first + k][0];
      return (value_x * u * v - value) * value_x;
    });
    const g = group.reduce((a, b) => a + b, 0) / group.length;
    found.push([rho * g * v, rho * g * u]);
  }
  return found;
}

/** The four trajectories as lists of [u, v], and where the dial's one is at `time`. */
export function compute(state) {
  const data = problem(state.noise);
  const paths = {};
  for (const method of METHODS) {
    const m = { ERM: 8, "n-SAM": 8, "m-SAM": state.m, "1-SAM": 1 }[method];
    const points = [];
    train({
      ...data,
      u: [state.u],
      v: [state.v],
      rho: method === "ERM" ? 0 : state.rho,
      m,
      stepSize: STEP_SIZE,
      steps: STEPS,
      every: EVERY,
      each: (_, u, v) => points.push([u[0], v[0]]),
    });
    paths[method] = points;
  }
  const at = Math.round((state.time / 100) ** 2 * (paths["m-SAM"].length - 1));
  const here = paths["m-SAM"][at];
  return {
    paths,
    here,
    problem: data,
    step: at * EVERY,
    moves: moves(data, here, state.rho, state.m),
    loss: loss(data.X, data.y, [here[0]], [here[1]]),
    unequal: Object.fromEntries(
      METHODS.map((method) => {
        const [u, v] = paths[method].at(-1);
        return [method, u * u - v * v];
      }),
    ),
  };
}

/** The methods, m-SAM only where it is none of the others. */
const named = (state) => METHODS.filter((method) => method !== "m-SAM" || (state.m > 1 && state.m < x.length));

const RANGE = [0, 2.6];
const layout = (width) => {
  const side = Math.min(width - 54, 430);
  return { left: 42, top: 22, right: 42 + side, bottom: 22 + side };
};

const figure = {
  name: "m-dial",
  title: "The m dial: how many examples share a perturbation?",
  controls: [
    { name: "m", label: "m, the size of a group", kind: "range", whole: true, min: 1, max: 8, value: 1 },
    { name: "rho", label: "radius ρ", kind: "range", min: 0, max: 0.3, steps: 60, value: 0.15 },
    { name: "noise", label: "noise in the labels", kind: "range", min: 0, max: 0.6, steps: 60, value: 0.3 },
    { name: "time", label: "time", kind: "range", whole: true, min: 0, max: 100, value: 35, show: (v) => `${v} %` },
    { name: "u", label: "start, u", kind: "range", min: 0.2, max: 2.5, steps: 115, value: 2.2 },
    { name: "v", label: "start, v", kind: "range", min: 0.02, max: 2.5, steps: 124, value: 0.1 },
  ],
  presets: [
    { label: "Every example for itself", state: { m: 1 } },
    { label: "All together: one arrow", state: { m: 8 } },
    { label: "Noise-free labels", state: { m: 1, noise: 0, rho: 0.3 } },
  ],
  compute,
  drag: {
    start: (state, px, py, result, width) => {
      const plane = axes(layout(width), { range: RANGE }, { range: RANGE });
      return { u: Number(plane.inverseX(px).toFixed(2)), v: Number(plane.inverseY(py).toFixed(2)) };
    },
  },
  draw(state, result, width) {
    const box = layout(width);
    const plane = axes(box, { range: RANGE, label: "u" }, { range: RANGE, label: "v" });
    const at = ([u, v]) => [plane.x(u), plane.y(v)];
    const inside = ([u, v]) => [clamp(u, ...RANGE), clamp(v, ...RANGE)];
    let body = plane.body;
    for (const level of [0.25, 0.5, 1, 1.5, 2, 3]) {
      const points = [];
      for (let k = 0; k <= 80; k++) {
        const u = level / RANGE[1] + (k / 80) * (RANGE[1] - level / RANGE[1]);
        points.push(at([u, level / u]));
      }
      const best = level === 1;
      body += path(points, {
        stroke: "currentColor",
        "stroke-width": best ? 2 : 1,
        "stroke-opacity": best ? 0.9 : 0.3,
        "stroke-dasharray": best ? "" : "3 3",
      });
    }
    const [flatU, flatV] = at([1, 1]);
    body += tag("circle", { cx: flatU, cy: flatV, r: 7, fill: "none", stroke: "currentColor", "stroke-width": 2 });
    body += label(flatU + 11, flatV - 8, "flattest");
    body += label(plane.x(1 / 2.35) + 10, plane.y(2.35), "best fit: u v = 1");
    for (const method of METHODS) {
      body += path(result.paths[method].map((w) => at(inside(w))), line(method));
      const [cx, cy] = at(inside(result.paths[method].at(-1)));
      body += tag("circle", { cx, cy, r: 4.5, fill: line(method).stroke });
    }
    const [hx, hy] = at(result.here);
    const enlarge = 3;
    for (const [du, dv] of result.moves) {
      const to = at(inside([result.here[0] + enlarge * du, result.here[1] + enlarge * dv]));
      body += arrow(hx, hy, ...to, line("m-SAM").stroke);
    }
    body += tag("circle", { cx: hx, cy: hy, r: 4, fill: "currentColor" });
    const [sx, sy] = at([state.u, state.v]);
    body += tag(
      "g",
      { "data-drag": "start" },
      tag("circle", { cx: sx, cy: sy, r: 16, fill: "transparent" }) +
        tag("rect", { x: sx - 6, y: sy - 6, width: 12, height: 12, fill: "currentColor" }),
    );
    const wide = width > 640;
    named(state).forEach((method, k) => {
      const [lx, ly] = wide ? [box.right + 24, box.top + 30 + 26 * k] : [box.left + 12 + 88 * (k % 3), box.bottom + 58 + 22 * Math.floor(k / 3)];
      body += path([[lx, ly - 4], [lx + 26, ly - 4]], line(method));
      const name = method === "m-SAM" ? `${state.m}-SAM` : method;
      body += label(lx + 32, ly, name);
    });
    const note = wide ? [box.right + 24, box.top + 150] : [box.left + 12, box.bottom + 102];
    const groups = result.moves.length;
    body += label(...note, `${groups} arrow${groups > 1 ? "s" : ""} uphill,`);
    body += label(note[0], note[1] + 18, "drawn 3 times as long");
    return { height: wide ? box.bottom + 44 : box.bottom + 128, body };
  },
  alt: (state, result) =>
    `Paths of the weights u and v. ERM ends at u² − v² = ${num(result.unequal.ERM)}, ` +
    `${state.m}-SAM at ${num(result.unequal["m-SAM"])}, 1-SAM at ${num(result.unequal["1-SAM"])}; ` +
    "zero is the flattest point, where u = v = 1.",
  say: (state, result) => [
    ["step shown", `${result.step} of ${STEPS}`],
    ["training loss there", num(result.loss)],
    ...named(state).map((method) => [
      `${method === "m-SAM" ? `${state.m}-SAM` : method}: u² − v² at the end`,
      num(result.unequal[method]),
    ]),
  ],
};

export default mount(figure);
