// Sharpness: in a ball around the weights, one step of SAM against the true maximum of the loss.
import { COLORS, arrow, axes, label, line, mount, num, path, tag } from "./kit.mjs";

// L(w) = <w, H w> / 2 + ripple (1 - cos(pitch w_1)), H a row of H_11, H_12, H_22.
export const LANDSCAPES = {
  bowl: { H: [1, 0, 0.5] },
  ravine: { H: [1.55, -0.78, 0.65] },
  saddle: { H: [1, 0, -1] },
  hilltop: { H: [-0.4, 0, -1] },
  ripples: { H: [0.4, 0, 0.8], ripple: 0.25, pitch: 4 },
};

export function value({ H: [a, b, c], ripple = 0, pitch = 0 }, [x, y]) {
  return (a * x * x + 2 * b * x * y + c * y * y) / 2 + ripple * (1 - Math.cos(pitch * x));
}

export function gradient({ H: [a, b, c], ripple = 0, pitch = 0 }, [x, y]) {
  return [a * x + b * y + ripple * pitch * Math.sin(pitch * x), b * x + c * y];
}

/** The eigenvalues of H, the larger first, and the eigenvector of the larger. */
function eigen([a, b, c]) {
  const [mean, half] = [(a + c) / 2, Math.hypot((a - c) / 2, b)];
  const turn = Math.atan2(b, (a - c) / 2) / 2;
  return { top: mean + half, low: mean - half, vector: [Math.cos(turn), Math.sin(turn)] };
}

/** How much the gradient can change per length: the largest absolute eigenvalue anywhere. */
export function smoothness({ H, ripple = 0, pitch = 0 }) {
  const bend = ripple * pitch * pitch;
  return Math.max(
    ...[bend, -bend].flatMap((more) => {
      const { top, low } = eigen([H[0] + more, H[1], H[2]]);
      return [Math.abs(top), Math.abs(low)];
    }),
  );
}

/**
 * {increase, delta}: the largest <g, delta> + <delta, H delta> / 2 over the ball |delta| <= rho, as
 * samkit.theory.objectives.quadratic_maximum: delta = (s - H)^-1 g, with s >= 0 at least the top
 * eigenvalue, and such that delta has length rho unless s = 0 will do.
 */
export function quadraticMaximum(g, H, rho) {
  const { top, low, vector: [e, f] } = eigen(H);
  const q = [e * g[0] + f * g[1], -f * g[0] + e * g[1]]; // along the top eigenvector, across it
  const floor = Math.max(top, 0);
  const gaps = [floor - top, floor - low];
  const step = (t) => q.map((part, i) => (part === 0 ? 0 : part / (t + gaps[i]))); // s = floor + t
  let best = step(0);
  if (!(Math.hypot(...best) <= rho)) {
    let [under, over] = [0, Math.hypot(...q) / rho]; // here the step is too long, there too short
    for (let k = 0; k < 200; k++) {
      const middle = (under + over) / 2;
      if (middle <= under || middle >= over) break;
      if (Math.hypot(...step(middle)) > rho) under = middle;
      else over = middle;
    }
    best = step(over);
  } else if (top >= 0) {
    best[0] = Math.sqrt(rho * rho - best[1] * best[1]); // filled up along the top, either way
  }
  const increase = q[0] * best[0] + q[1] * best[1] + (top * best[0] ** 2 + low * best[1] ** 2) / 2;
  return { increase, delta: [e * best[0] - f * best[1], f * best[0] + e * best[1]] };
}

const ANGLES = 72;

/**
 * The same for a landscape with ripples. Where H_22 > 0 the loss bends upwards along w_2, so that
 * no maximum lies inside the ball: the best of all peaks on its edge, each between two angles of
 * a grid, where the slope along the edge changes its sign.
 */
export function edgeMaximum(landscape, center, rho) {
  const point = (turn) => [center[0] + rho * Math.cos(turn), center[1] + rho * Math.sin(turn)];
  const slope = (turn) => {
    const [a, b] = gradient(landscape, point(turn));
    return b * Math.cos(turn) - a * Math.sin(turn);
  };
  const grid = Array.from({ length: ANGLES + 1 }, (_, k) => (2 * Math.PI * k) / ANGLES);
  const slopes = grid.map(slope);
  let [best, top] = [0, -Infinity];
  for (let k = 0; k < ANGLES; k++) {
    if (!(slopes[k] >= 0 && slopes[k + 1] < 0)) continue;
    let [before, after] = [grid[k], grid[k + 1]];
    for (let half = 0; half < 50; half++) {
      const middle = (before + after) / 2;
      if (slope(middle) >= 0) before = middle;
      else after = middle;
    }
    const found = value(landscape, point(before));
    if (found > top) [best, top] = [before, found];
  }
  const delta = [rho * Math.cos(best), rho * Math.sin(best)];
  return { increase: top - value(landscape, center), delta };
}

/** What SAM and the maximum make of the loss within rho of the center: increases over L. */
export function increases(landscape, center, rho) {
  const g = gradient(landscape, center);
  const slope = Math.hypot(...g);
  const step = slope > 0 ? g.map((part) => (rho * part) / slope) : [0, 0];
  const loss = value(landscape, center);
  const one = value(landscape, [center[0] + step[0], center[1] + step[1]]) - loss;
  const most = landscape.ripple
    ? edgeMaximum(landscape, center, rho)
    : quadraticMaximum(g, landscape.H, rho);
  return { loss, slope, step, linear: rho * slope, one, maximum: most.increase, delta: most.delta };
}

const RADII = [0.05, 1.5];
const CURVE = 24;

export function compute(state) {
  const landscape = LANDSCAPES[state.landscape];
  const center = [state.x, state.y];
  const beta = smoothness(landscape);
  const here = increases(landscape, center, state.rho);
  const curve = Array.from({ length: CURVE + 1 }, (_, k) => {
    const rho = (k / CURVE) * RADII[1];
    if (k === 0) return [0, 0, 0, 0];
    const at = increases(landscape, center, rho);
    return [rho, at.linear, at.one, at.maximum];
  });
  const bound = beta * state.rho ** 2;
  return { ...here, beta, bound, lost: here.maximum - here.one, share: (here.maximum - here.one) / bound, curve };
}

/** Level lines of a function on a square of side 2 `most`, as pairs of end points. */
export function contours(f, levels, most, cells = 40) {
  const at = (k) => -most + (2 * most * k) / cells;
  const grid = Array.from({ length: cells + 1 }, (_, i) =>
    Float64Array.from({ length: cells + 1 }, (_, j) => f([at(i), at(j)])),
  );
  const around = [[0, 0], [1, 0], [1, 1], [0, 1]];
  return levels.map((level) => {
    const pieces = [];
    for (let i = 0; i < cells; i++) {
      for (let j = 0; j < cells; j++) {
        const under = (p, q) => (grid[i + p][j + q] < level ? 1 : 0);
        const count = under(0, 0) + under(1, 0) + under(1, 1) + under(0, 1);
        if (count === 0 || count === 4) continue;
        const crossings = [];
        for (let k = 0; k < 4; k++) {
          const [[p, q], [r, s]] = [around[k], around[(k + 1) % 4]];
          if (under(p, q) === under(r, s)) continue;
          const [a, b] = [grid[i + p][j + q], grid[i + r][j + s]];
          const part = (level - a) / (b - a);
          crossings.push([at(i + p + part * (r - p)), at(j + q + part * (s - q))]);
        }
        for (let k = 0; k < crossings.length; k += 2) pieces.push([crossings[k], crossings[k + 1]]);
      }
    }
    return pieces;
  });
}

const MOST = 2.6;
const LEVELS = 11;
const drawn = new Map(); // a landscape's lines in pixels: they stay while the ball is dragged

function lines(name, plane, width) {
  const key = `${name} ${width}`;
  if (!drawn.has(key)) {
    const landscape = LANDSCAPES[name];
    const f = (w) => value(landscape, w);
    const edge = [[MOST, MOST], [MOST, -MOST], [MOST, 0], [0, MOST], [0, 0]].map(f);
    const [low, high] = [Math.min(...edge), Math.max(...edge)];
    // in a bowl more of them low down, where the ball is
    const power = low < 0 ? 1 : 1.7;
    const levels = Array.from({ length: LEVELS }, (_, k) => low + (high - low) * ((k + 0.5) / LEVELS) ** power);
    const short = (x) => Math.round(10 * x) / 10;
    const body = contours(f, levels, MOST).map((pieces, k) => {
      const d = pieces
        .map(([p, q]) => `M${short(plane.x(p[0]))} ${short(plane.y(p[1]))}L${short(plane.x(q[0]))} ${short(plane.y(q[1]))}`)
        .join("");
      return tag("path", { d, fill: "none", stroke: "currentColor", "stroke-width": 1, "stroke-opacity": 0.18 + (0.6 * k) / LEVELS });
    });
    drawn.set(key, body.join(""));
  }
  return drawn.get(key);
}

function layout(width) {
  const wide = width > 640;
  const side = wide ? Math.min(340, width - 340) : Math.min(width - 56, 340);
  const plane = { left: 42, top: 24, right: 42 + side, bottom: 24 + side };
  const top = wide ? plane.top : plane.bottom + 128;
  const left = wide ? plane.right + 74 : 46;
  return { plane, curve: { left, top, right: width - 14, bottom: wide ? plane.bottom : top + 180 } };
}

function scales(result, width) {
  const boxes = layout(width);
  const range = [-MOST, MOST];
  const values = result.curve.flatMap((row) => row.slice(1));
  const [low, high] = [Math.min(0, ...values), Math.max(...values)];
  return {
    ...boxes,
    inPlane: axes(boxes.plane, { range, label: "w₁" }, { range, label: "w₂" }),
    inCurve: axes(
      boxes.curve,
      { range: [0, RADII[1]], label: "radius ρ" },
      { range: [1.05 * low, 1.05 * high], label: "increase over L" },
    ),
  };
}

const to = (x, digits = 2) => Number(x.toFixed(digits));
const LOOKS = {
  linear: { stroke: "currentColor", "stroke-dasharray": "2 4" },
  one: line("n-SAM"),
  maximum: { stroke: "currentColor" },
};

const figure = {
  name: "sharpness",
  title: "The worst loss nearby: one step against the true maximum",
  controls: [
    { name: "landscape", label: "landscape", kind: "choice", options: Object.keys(LANDSCAPES), value: "ravine" },
    { name: "rho", label: "radius ρ", kind: "range", min: RADII[0], max: RADII[1], steps: 145, value: 0.8 },
    { name: "x", label: "weights, w₁", kind: "range", min: -1.5, max: 1.5, steps: 300, value: 0.5 },
    { name: "y", label: "weights, w₂", kind: "range", min: -1.5, max: 1.5, steps: 300, value: 0.9 },
  ],
  main: ["rho"],
  presets: [
    { label: "A small ball: one step is the maximum", state: { rho: 0.1 } },
    { label: "The sharp example", state: { landscape: "saddle", rho: 1, x: 0, y: 0.01 } },
    { label: "One step beyond the top", state: { landscape: "hilltop", rho: 1.2, x: 0.1, y: 0.5 } },
    { label: "One step into the valley", state: { landscape: "ripples", rho: 1.2, x: -0.6, y: 0.1 } },
  ],
  compute,
  drag: {
    center: (state, px, py, result, width) => {
      const { inPlane } = scales(result, width);
      return { x: to(inPlane.inverseX(px)), y: to(inPlane.inverseY(py)) };
    },
    ball: (state, px, py, result, width) => {
      const { inPlane } = scales(result, width);
      return { rho: to(Math.hypot(inPlane.inverseX(px) - state.x, inPlane.inverseY(py) - state.y)) };
    },
    rho: (state, px, py, result, width) => ({ rho: to(scales(result, width).inCurve.inverseX(px)) }),
  },
  draw(state, result, width) {
    const { plane, curve, inPlane, inCurve } = scales(result, width);
    const ink = { stroke: "currentColor" };
    const blue = COLORS["n-SAM"];
    let body = inPlane.body + lines(state.landscape, inPlane, width);
    const [cx, cy] = [inPlane.x(state.x), inPlane.y(state.y)];
    const r = inPlane.x(state.rho) - inPlane.x(0);
    body += tag("circle", { cx, cy, r, fill: "currentColor", "fill-opacity": 0.1, ...ink, "stroke-width": 2 });
    const best = [inPlane.x(state.x + result.delta[0]), inPlane.y(state.y + result.delta[1])];
    const one = [inPlane.x(state.x + result.step[0]), inPlane.y(state.y + result.step[1])];
    body += arrow(cx, cy, ...one, blue, { "stroke-width": 3 });
    body += tag("circle", { cx: best[0], cy: best[1], r: 6, fill: "none", ...ink, "stroke-width": 3 });
    // the handle of the radius, on the ball's far side from the step and the maximum
    const turn = Math.atan2(one[1] + best[1] - 2 * cy, one[0] + best[0] - 2 * cx) + Math.PI;
    const [hx, hy] = [cx + r * Math.cos(turn), cy + r * Math.sin(turn)];
    body += tag(
      "g",
      { "data-drag": "ball" },
      tag("circle", { cx: hx, cy: hy, r: 15, fill: "transparent" }) +
        tag("rect", { x: hx - 5, y: hy - 5, width: 10, height: 10, fill: "currentColor" }),
    );
    body += tag(
      "g",
      { "data-drag": "center" },
      tag("circle", { cx, cy, r: Math.min(15, Math.max(5, r - 8)), fill: "transparent" }) +
        tag("circle", { cx, cy, r: 5, fill: "currentColor" }),
    );
    const below = plane.bottom + 56;
    body += arrow(plane.left, below - 4, plane.left + 26, below - 4, blue, { "stroke-width": 3 });
    body += label(plane.left + 34, below, "one step");
    body += tag("circle", { cx: plane.left + 114, cy: below - 4, r: 6, fill: "none", ...ink, "stroke-width": 3 });
    body += label(plane.left + 127, below, "the maximum");
    body += label(plane.left, below + 22, "level lines: darker is higher");

    body += inCurve.body;
    body += path([[curve.left, inCurve.y(0)], [curve.right, inCurve.y(0)]], { ...ink, "stroke-width": 1 });
    ["linear", "one", "maximum"].forEach((name, k) => {
      body += path(result.curve.map((row) => [inCurve.x(row[0]), inCurve.y(row[k + 1])]), LOOKS[name]);
      const below = k === 2 && curve.right - curve.left < 250 ? 22 : 0; // no room beside the others
      const start = curve.left + [0, 68, below ? 0 : 150][k];
      body += path([[start, curve.bottom + 52 + below], [start + 22, curve.bottom + 52 + below]], LOOKS[name]);
      body += label(start + 27, curve.bottom + 56 + below, ["linear", "one step", "maximum"][k]);
    });
    const here = inCurve.x(state.rho);
    body += tag(
      "g",
      { "data-drag": "rho" },
      tag("rect", { x: here - 14, y: curve.top, width: 28, height: curve.bottom - curve.top, fill: "transparent" }) +
        path([[here, curve.top], [here, curve.bottom]], { ...ink, "stroke-width": 1, "stroke-opacity": 0.6 }) +
        path([[here, inCurve.y(result.one)], [here, inCurve.y(result.maximum)]], { ...ink, "stroke-width": 5 }),
    );
    return { height: Math.max(below + 30, curve.bottom + 86), body };
  },
  alt: (state, result) =>
    `Level lines of a ${state.landscape} and a ball of radius ${num(state.rho)}: one step uphill raises the loss by ` +
    `${num(result.one)}, the true maximum by ${num(result.maximum)}, the linear prediction is ${num(result.linear)}.`,
  say: (state, result) => [
    ["loss L at the center", num(result.loss)],
    ["linear: L + ρ‖∇L‖", num(result.loss + result.linear)],
    ["one step: V₁", num(result.loss + result.one)],
    ["true maximum: M", num(result.loss + result.maximum)],
    ["lost: M − V₁", num(result.lost)],
    ["its bound βρ²", num(result.bound)],
    ["lost / bound", num(result.share)],
    ["smoothness β", num(result.beta)],
  ],
};

export default mount(figure);
