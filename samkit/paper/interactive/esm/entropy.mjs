// The hyperbolic entropy: two coefficients, one equation, and which solution has the least of it.
import { arrow, axes, clamp, label, mount, num, path, tag } from "./kit.mjs";

/** phi_alpha(beta), as samkit.diagonal.hyperbolic_entropy. */
export function potential(beta, alpha) {
  let total = 0;
  for (let i = 0; i < beta.length; i++) {
    const square = alpha[i] * alpha[i];
    const root = Math.sqrt(beta[i] * beta[i] + square * square);
    total += beta[i] * Math.asinh(beta[i] / square) - (beta[i] * beta[i]) / (root + square);
  }
  return total / 2;
}

/**
 * {beta, multiplier} with the least phi_alpha on <x, beta> = 1, for x with positive entries: the
 * gradient of phi must be a multiple of x, so beta_i = alpha_i^2 sinh(2 multiplier x_i), and one
 * number is to be found. Newton's method, from where one term alone is 1: there all is convex.
 */
export function minimizer(x, alpha) {
  const square = alpha.map((a) => a * a);
  let multiplier = Math.min(...x.map((xi, i) => Math.asinh(1 / (square[i] * xi)) / (2 * xi)));
  for (let step = 0; step < 100; step++) {
    let [excess, slope] = [-1, 0];
    for (let i = 0; i < x.length; i++) {
      excess += square[i] * x[i] * Math.sinh(2 * multiplier * x[i]);
      slope += 2 * square[i] * x[i] * x[i] * Math.cosh(2 * multiplier * x[i]);
    }
    const next = multiplier - excess / slope;
    if (!(next < multiplier)) break; // it only falls, until rounding
    multiplier = next;
  }
  return { beta: x.map((xi, i) => square[i] * Math.sinh(2 * multiplier * xi)), multiplier };
}

/** How far to go in a direction (unit vector, entries not negative) until phi_alpha is `level`. */
export function reach(direction, level, alpha) {
  const along = (r) => potential(direction.map((d) => r * d), alpha) - level;
  let r = 1;
  while (along(r) < 0) r *= 2;
  for (let step = 0; step < 100; step++) {
    let slope = 0;
    direction.forEach((d, i) => (slope += (d * Math.asinh((r * d) / alpha[i] ** 2)) / 2));
    const next = r - along(r) / slope;
    if (!(next < r)) break;
    r = next;
  }
  return r;
}

const ALPHAS = [1e-3, 10];
const CURVE = 81;
const RAYS = 48; // in a quarter of a level set
const SIZES = [0.5, 1, 1.5]; // of the level sets, against the one through the minimizer
const sum = (values) => values.reduce((a, b) => a + b, 0);
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

export function compute(state) {
  const angle = (state.angle / 180) * Math.PI;
  const x = [Math.cos(angle), Math.sin(angle)];
  const both = (alpha) => [alpha * state.ratio, alpha];
  const alpha = both(state.alpha);
  const { beta, multiplier } = minimizer(x, alpha);
  // The solutions of least l1 norm: a corner of the diamond, or a whole side of it.
  const corners = [[1 / x[0], 0], [0, 1 / x[1]]];
  const tie = state.angle === 45;
  const l1 = tie ? corners : [x[0] > x[1] ? corners[0] : corners[1]];
  return {
    x,
    alpha,
    beta,
    multiplier,
    potential: potential(beta, alpha),
    corners,
    l1,
    norms: { l1: sum(beta.map(Math.abs)), l2: Math.hypot(...beta), least_l1: 1 / Math.max(...x) },
    distances: { l1: tie ? 0 : distance(beta, l1[0]), l2: distance(beta, x) },
    levels: SIZES.map((size) => {
      const level = potential(beta.map((b) => size * b), alpha);
      return Array.from({ length: RAYS + 1 }, (_, k) => {
        const turn = ((k / RAYS) * Math.PI) / 2;
        const direction = [k === RAYS ? 0 : Math.cos(turn), Math.sin(turn)];
        const r = reach(direction, level, alpha);
        return [r * direction[0], r * direction[1]];
      });
    }),
    curve: Array.from({ length: CURVE }, (_, k) => {
      const at = ALPHAS[0] * (ALPHAS[1] / ALPHAS[0]) ** (k / (CURVE - 1));
      return [at, ...minimizer(x, both(at)).beta];
    }),
  };
}

function layout(width) {
  const wide = width > 640;
  const side = wide ? Math.min(330, width - 340) : Math.min(width - 56, 330);
  const plane = { left: 42, top: 24, right: 42 + side, bottom: 24 + side };
  const top = wide ? plane.top : plane.bottom + 118;
  const left = wide ? plane.right + 74 : 42;
  const right = Math.min(width - 14, left + 330);
  return { plane, curve: { left, top, right, bottom: wide ? plane.bottom : top + 170 } };
}

/** A distance; what rounding leaves of none is none. */
const far = (x) => num(x < 1e-12 ? 0 : x);

/** As far as the plane shows: beta may leave its usual place when the two alphas differ. */
const extent = ({ beta }) => Math.max(1.6, 1.25 * Math.max(...beta));

function scales(result, width) {
  const boxes = layout(width);
  const range = [-extent(result), extent(result)];
  return {
    ...boxes,
    inPlane: axes(boxes.plane, { range, label: "β₁" }, { range, label: "β₂" }),
    inCurve: axes(
      boxes.curve,
      { range: ALPHAS, log: true, label: "α" },
      { range: [0, Math.max(1.2, ...result.curve.flatMap(([, a, b]) => [a, b]))] },
    ),
  };
}

/** The parts of a line of points that lie in a square of half width `most`. */
function clipped(points, most) {
  const parts = [[]];
  for (const point of points) {
    if (Math.max(Math.abs(point[0]), Math.abs(point[1])) <= most) parts.at(-1).push(point);
    else if (parts.at(-1).length) parts.push([]);
  }
  return parts.filter((part) => part.length > 1);
}

const figure = {
  name: "entropy",
  title: "Hyperbolic entropy: from the ℓ₂ circle to the ℓ₁ diamond",
  controls: [
    { name: "alpha", label: "α", kind: "range", log: true, min: ALPHAS[0], max: ALPHAS[1], steps: 160, value: 0.3 },
    { name: "angle", label: "direction of x", kind: "range", min: 10, max: 80, steps: 140, value: 30, show: (v) => `${num(v)}°` },
    { name: "ratio", label: "α₁ divided by α₂", kind: "range", log: true, min: 0.1, max: 10, steps: 80, value: 1 },
  ],
  presets: [
    { label: "Large α: least ℓ₂", state: { alpha: 10 } },
    { label: "Small α: least ℓ₁, sparse", state: { alpha: 0.001 } },
    { label: "Near a tie: ℓ₁ comes slowly", state: { alpha: 0.001, angle: 43 } },
    { label: "A tie: ℓ₁ does not choose", state: { alpha: 0.001, angle: 45 } },
    { label: "Smaller α₁, yet less sparse", state: { alpha: 0.3, ratio: 0.1 } },
  ],
  compute,
  drag: {
    x: (state, px, py, result, width) => {
      const { inPlane } = scales(result, width);
      const turn = Math.atan2(inPlane.inverseY(py), inPlane.inverseX(px));
      return { angle: Math.round((360 * turn) / Math.PI) / 2 };
    },
    alpha: (state, px, py, result, width) => ({
      alpha: Number(scales(result, width).inCurve.inverseX(px).toPrecision(4)),
    }),
  },
  draw(state, result, width) {
    const { plane, curve, inPlane, inCurve } = scales(result, width);
    const most = extent(result);
    const at = ([a, b]) => [inPlane.x(a), inPlane.y(b)];
    const ink = { stroke: "currentColor" };
    let body = inPlane.body;
    body += path([at([-most, 0]), at([most, 0])], { ...ink, "stroke-width": 1, "stroke-opacity": 0.5 });
    body += path([at([0, -most]), at([0, most])], { ...ink, "stroke-width": 1, "stroke-opacity": 0.5 });
    result.levels.forEach((quarter, k) => {
      const back = quarter.slice().reverse();
      const whole = [
        ...quarter,
        ...back.map(([a, b]) => [-a, b]),
        ...quarter.map(([a, b]) => [-a, -b]),
        ...back.map(([a, b]) => [a, -b]),
      ];
      const main = SIZES[k] === 1;
      const parts = clipped(whole, most);
      for (const part of parts) {
        body += path(part.map(at), {
          ...ink,
          "stroke-width": main ? 2 : 1,
          "stroke-opacity": main ? 1 : 0.45,
          ...(main && parts.length === 1 && { fill: "currentColor", "fill-opacity": 0.08 }),
        });
      }
    });
    // the solution line, from edge to edge
    const [x0, x1] = result.x;
    const ends = [
      [-most, (1 + most * x0) / x1],
      [most, (1 - most * x0) / x1],
      [(1 + most * x1) / x0, -most],
      [(1 - most * x1) / x0, most],
    ].filter((end) => Math.max(...end.map(Math.abs)) <= most * (1 + 1e-9));
    body += path(ends.map(at), { ...ink, "stroke-dasharray": "7 4" });
    if (result.l1.length > 1) body += path(result.l1.map(at), { ...ink, "stroke-width": 5, "stroke-opacity": 0.5 });
    const ring = { r: 6, fill: "none", ...ink, "stroke-width": 2 };
    const square = (x, y) => tag("rect", { x: x - 6, y: y - 6, width: 12, height: 12, fill: "none", ...ink, "stroke-width": 2 });
    for (const [cx, cy] of result.l1.map(at)) body += tag("circle", { cx, cy, ...ring });
    const [bx, by] = at(result.beta);
    body += arrow(bx, by, bx + 44 * x0, by - 44 * x1, "currentColor");
    const [hx, hy] = at(result.x);
    body += tag(
      "g",
      { "data-drag": "x" },
      tag("circle", { cx: hx, cy: hy, r: 16, fill: "transparent" }) + square(hx, hy),
    );
    body += tag("circle", { cx: bx, cy: by, r: 5, fill: "currentColor" });
    const below = plane.bottom + 56;
    body += tag("circle", { cx: plane.left + 6, cy: below - 4, r: 5, fill: "currentColor" });
    body += label(plane.left + 17, below, "least φ");
    body += tag("circle", { cx: plane.left + 88, cy: below - 4, ...ring });
    body += label(plane.left + 100, below, "least ℓ₁");
    body += square(plane.left + 174, below - 4) + label(plane.left + 186, below, "least ℓ₂");
    body += label(plane.left, below + 22, "dashed: ⟨x, β⟩ = 1; arrow: ∇φ = λx");

    body += inCurve.body;
    const here = clamp(inCurve.x(state.alpha), curve.left, curve.right);
    const lines = ["", "5 4"];
    lines.forEach((dash, k) => {
      body += path(result.curve.map((row) => [inCurve.x(row[0]), inCurve.y(row[k + 1])]), { ...ink, "stroke-dasharray": dash });
      const start = curve.left + 104 + 76 * k;
      body += path([[start, curve.top - 13], [start + 26, curve.top - 13]], { ...ink, "stroke-dasharray": dash });
      body += label(start + 32, curve.top - 9, ["β₁", "β₂"][k]);
    });
    body += label(curve.left, curve.top - 9, "the minimizer");
    body += tag(
      "g",
      { "data-drag": "alpha" },
      tag("rect", { x: here - 14, y: curve.top, width: 28, height: curve.bottom - curve.top, fill: "transparent" }) +
        path([[here, curve.top], [here, curve.bottom]], { ...ink, "stroke-width": 1.5, "stroke-opacity": 0.6 }) +
        result.beta.map((b) => tag("circle", { cx: here, cy: inCurve.y(b), r: 5, fill: "currentColor" })).join(""),
    );
    return { height: Math.max(below + 30, curve.bottom + 42), body };
  },
  alt: (state, result) =>
    `Level sets of the hyperbolic entropy for alpha ${num(state.alpha)}` +
    (state.ratio === 1 ? "" : ` (${num(result.alpha[0])} in the first coordinate)`) +
    ` and a line of solutions that touches one of them at (${result.beta.map((b) => num(b)).join(", ")}); ` +
    `the solution of least l2 norm is ${far(result.distances.l2)} away, that of least l1 norm ${far(result.distances.l1)}.`,
  say: (state, result) => [
    ["minimizer β", `(${result.beta.map((b) => num(b)).join(", ")})`],
    ["multiplier λ", num(result.multiplier)],
    [`its ℓ₁ norm (least ${num(result.norms.least_l1, 4)})`, num(result.norms.l1, 4)],
    ["its ℓ₂ norm (least 1)", num(result.norms.l2, 4)],
    ["distance to least ℓ₁", far(result.distances.l1)],
    ["distance to least ℓ₂", far(result.distances.l2)],
  ],
};

export default mount(figure);
