// The diagonal-network lab: 10,001 steps of m-SAM on sparse regression, and what the theorem says.
import { axes, clamp, label, line, mount, num, path, tag } from "./kit.mjs";
import { RULES, dot, loss, sample, testLoss, training } from "./diagonal.mjs";
import { finish } from "./slices.mjs";

const D = 30;
export const STEPS = 10001; // as the authors' notebook
const FITTED = 1e-5;
const TOLERANCE = 0.05;
const [FIRST, LAST] = [0, Math.log10(STEPS)];
export const RECORDED = [
  ...new Set(Array.from({ length: 81 }, (_, k) => Math.round(10 ** (FIRST + (k / 80) * (LAST - FIRST))))),
];

/** The last few results of a generator of plain settings: a moved control changes few of them. */
function remembering(made, most) {
  const kept = new Map();
  return function* (settings) {
    const key = JSON.stringify(settings);
    const found = kept.get(key) ?? (yield* made(settings));
    kept.delete(key);
    kept.set(key, found);
    if (kept.size > most) kept.delete(kept.keys().next().value);
    return found;
  };
}

const problem = remembering(function* (data) {
  const set = sample(data);
  yield;
  return set;
}, 4);

const run = remembering(function* ({ data, init, ...rule }) {
  const set = yield* problem(data);
  const [trainLoss, test] = [[], []];
  const { u, v, byFlow, bySteps } = yield* training({
    ...set,
    ...rule,
    u: new Float64Array(D).fill(init),
    v: new Float64Array(D),
    steps: STEPS,
    at: RECORDED,
    each: (_, u, v) => {
      trainLoss.push(loss(set.X, set.y, u, v));
      test.push(testLoss(set, u, v));
    },
  });
  const beta = u.map((value, j) => value * v[j]);
  // u^2 - v^2 = 2 alpha^2
  const alpha = u.map((value, j) => Math.sqrt(Math.max(0, ((value + v[j]) * (value - v[j])) / 2)));
  return {
    ...{ beta, alpha, test, trainLoss, byFlow, bySteps },
    l1: beta.reduce((total, value) => total + Math.abs(value), 0),
  };
}, 16);

/** Orthonormal vectors that span the rows of X (Gram and Schmidt, twice). */
function spanned(X) {
  const basis = [];
  for (const row of X) {
    const q = without(without(row, basis), basis);
    const length = Math.sqrt(dot(q, q));
    basis.push(q.map((value) => value / length));
  }
  return basis;
}

/** What is left of a vector without its part in the span. */
function without(vector, basis) {
  const left = Float64Array.from(vector);
  for (const q of basis) {
    const share = dot(q, left);
    for (let j = 0; j < left.length; j++) left[j] -= share * q[j];
  }
  return left;
}

/** The gradient of the hyperbolic entropy, coefficient by coefficient. */
const slope = (beta, alpha) => beta.map((value, j) => Math.asinh(value / alpha[j] ** 2) / 2);

/** The hyperbolic entropy phi_alpha(beta). */
export function entropy(beta, alpha) {
  let total = 0;
  for (let j = 0; j < beta.length; j++) {
    const square = alpha[j] ** 2;
    const excess = beta[j] ** 2 / (Math.hypot(beta[j], square) + square);
    total += (beta[j] * Math.asinh(beta[j] / square) - excess) / 2;
  }
  return total;
}

const largest = (values) => values.reduce((a, b) => (a > b || Number.isNaN(a) ? a : b), -Infinity);
const percent = (x) => (Number.isFinite(x) ? `${num(100 * x, 2)} %` : "everything");

/** The theorem's hypothesis, its conclusions and what one hopes for, each measured. */
function checks(set, { init, stepSize }, sam, erm) {
  const start = init / Math.SQRT2;
  const gap = sam.alpha.map((value, j) => Math.abs((value / start) * Math.exp(sam.byFlow[j] + sam.bySteps[j]) - 1));
  const gradient = slope(sam.beta, sam.alpha);
  const normal = without(gradient, spanned(set.X));
  const ratio = sam.alpha.map((value, j) => value / erm.alpha[j]);
  const values = {
    fitted: sam.trainLoss.at(-1),
    identity: largest(gap),
    bySteps: 1 - Math.exp(-largest(sam.bySteps)),
    kkt: largest(normal.map(Math.abs)) / largest(gradient.map(Math.abs)),
    alpha: largest(ratio),
    sparser: sam.l1 / erm.l1,
    test: sam.test.at(-1) / erm.test.at(-1),
  };
  const blewUp = !Number.isFinite(values.fitted + sam.l1);
  const met = {
    fitted: values.fitted < FITTED,
    identity: values.identity < TOLERANCE,
    kkt: values.kkt < TOLERANCE,
    alpha: values.alpha < 1 && !blewUp,
    sparser: values.sparser < 1,
    test: values.test < 1,
  };
  return { values, met };
}

export const compute = (state) => finish(slices(state));

function* slices({ m, rho, init, stepSize, n, sparsity, seed, rule, all }) {
  const size = Math.min(m, n);
  const method = size === 1 ? "1-SAM" : size === n ? "n-SAM" : "m-SAM";
  const data = { n, d: D, sparsity, seed };
  const trained = (radius, group, broken) => run({ data, init, stepSize, rho: radius, m: group, broken });
  const runs = { ERM: yield* trained(0, n, "as it is") };
  if (all) {
    runs["n-SAM"] = yield* trained(rho, n, rule);
    runs["1-SAM"] = yield* trained(rho, 1, rule);
  }
  runs[method] ??= yield* trained(rho, size, rule);
  const set = yield* problem(data);
  const [sam, erm] = [runs[method], runs.ERM];
  return {
    ...{ method, m: size, runs, truth: set.beta },
    ...checks(set, { init, stepSize }, sam, erm),
    entropy: { own: entropy(sam.beta, sam.alpha), ERM: entropy(erm.beta, sam.alpha) },
  };
}

const potential = (value) => (Number.isFinite(value) ? num(value, 5) : "not defined");

const name = (method, result) => (method === "m-SAM" ? `${result.m}-SAM` : method);

/** [key, what is claimed, what was measured] */
function claims(state, { values, runs, method }) {
  const end = (run) => num(run.test.at(-1), 2);
  const died = runs[method].alpha.some((value) => !(value > 0));
  return [
    ["fitted", "Hypothesis: the data are fitted", `training loss ${num(values.fitted, 2)}`],
    [
      "identity",
      "Conclusion: α = a₀/√2 · exp(−∫ B)",
      died ? "lost in rounding" : `off by ${percent(values.identity)}, finite steps allowed for`,
    ],
    ["kkt", "Conclusion: least entropy for this α", died ? "lost in rounding" : `off by ${percent(values.kkt)}`],
    ["alpha", "Hope: α below ERM’s everywhere", `largest ratio ${num(values.alpha)}`],
    ["sparser", "Hope: sparser than ERM", `${runs[method].l1 < 1e-9 ? "β = 0" : `Σ|β| ${num(runs[method].l1, 4)}`}, ERM ${num(runs.ERM.l1, 4)}`],
    ["test", "Hope: better on test data", `${end(runs[method])}, ERM ${end(runs.ERM)}`],
  ];
}

const root = (x) => Math.sign(x) * Math.sqrt(Math.abs(x));
const finite = (values) => values.filter(Number.isFinite);

function lossPanel(box, state, result) {
  const seen = Object.values(result.runs).flatMap((run) => finite(run.test).filter((value) => value > 0));
  const [low, high] = [clamp(Math.min(...seen), 1e-9, 1), clamp(Math.max(...seen), 1e-2, 1e3)];
  const plane = axes(
    box,
    { range: [1, STEPS], log: true, ticks: [1, 10, 100, 1000], label: "steps" },
    { range: [10 ** Math.floor(Math.log10(low) - 0.1), 10 ** Math.ceil(Math.log10(high))], log: true, label: "test loss" },
  );
  let body = plane.body;
  const order = Object.keys(result.runs).sort((a, b) => (a === result.method) - (b === result.method));
  for (const method of order) {
    const points = result.runs[method].test
      .map((value, k) => [plane.x(RECORDED[k]), clamp(plane.y(value), box.top, box.bottom)]);
    body += path(points, line(method));
    const [cx, cy] = points.filter(([, y]) => Number.isFinite(y)).at(-1);
    body += tag("circle", { cx, cy, r: method === result.method ? 5 : 3.5, fill: line(method).stroke });
  }
  return body;
}

function alphaPanel(box, state, result) {
  const start = state.init / Math.SQRT2;
  const pair = ["ERM", result.method];
  const seen = pair.flatMap((method) => finite([...result.runs[method].alpha]).filter((value) => value > 0));
  const [low, high] = [Math.max(Math.min(...seen, start), start / 1e4), Math.max(...seen, start)];
  const plane = axes(
    box,
    { range: [0, D + 1], ticks: [1, 10, 20, 30], label: "coefficient" },
    { range: [low / 1.3, high * 1.3], log: true, ticks: alphaTicks(low / 1.3, high * 1.3), label: "α; dotted: at the start" },
  );
  let body = plane.body;
  const level = plane.y(start);
  body += path([[box.left, level], [box.right, level]], { stroke: "currentColor", "stroke-width": 1.5, "stroke-dasharray": "2 3" });
  for (const method of pair) {
    const alpha = result.runs[method].alpha;
    const points = [...alpha].map((value, j) => [plane.x(j + 1), clamp(plane.y(value), box.top, box.bottom)]);
    body += path(points, { ...line(method), "stroke-width": 1, "stroke-opacity": 0.5 });
    body += dots(points, method, 3.2);
  }
  return body;
}

function alphaTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power < high; power++) {
    for (const digit of high / low > 30 ? [1] : [1, 2, 5]) {
      const value = Number(`${digit}e${power}`);
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

const dots = (points, method, r) =>
  points
    .filter(([, y]) => Number.isFinite(y))
    .map(([cx, cy]) => tag("circle", { cx, cy, r, fill: line(method).stroke }))
    .join("");

function betaPanel(box, state, result) {
  const pair = ["ERM", result.method];
  const seen = finite([...result.truth, ...pair.flatMap((method) => [...result.runs[method].beta])].map(root));
  const [low, high] = [Math.max(Math.min(...seen, -0.1), -1.2), Math.min(Math.max(...seen), 1.2)];
  const plane = axes(
    box,
    { range: [0, D + 1], ticks: [1, 10, 20, 30], label: "coefficient" },
    { range: [low - 0.06, high + 0.06], ticks: [], label: "β, square-root scale" },
  );
  let body = plane.body;
  const marked = [];
  for (const value of [0, 0.1, 0.5, 1, 0.01].flatMap((size) => (size ? [size, -size] : [0]))) {
    const y = plane.y(root(value));
    if (y < box.top || y > box.bottom || marked.some((other) => Math.abs(other - y) < 12)) continue;
    marked.push(y);
    const strong = value === 0;
    body += path([[box.left, y], [box.right, y]], { stroke: "currentColor", "stroke-opacity": strong ? 0.6 : 0.15, "stroke-width": 1 });
    body += label(box.left - 6, y + 4, num(value), { "text-anchor": "end", "font-size": 12 });
  }
  pair.forEach((method, k) => {
    const shift = (k - 0.5) * 0.36;
    const points = [...result.runs[method].beta].map((value, j) => [
      plane.x(j + 1 + shift),
      clamp(plane.y(root(value)), box.top, box.bottom),
    ]);
    for (const [x, y] of points) {
      if (Number.isFinite(y)) body += path([[x, plane.y(0)], [x, y]], { stroke: line(method).stroke });
    }
    body += dots(points, method, 2.8);
  });
  result.truth.forEach((value, j) => {
    if (value === 0) return;
    const [x, y] = [plane.x(j + 1), plane.y(root(value))];
    body += tag("rect", { x: x - 6, y: y - 6, width: 12, height: 12, fill: "none", stroke: "currentColor", "stroke-width": 1.5 });
  });
  return body;
}

const sign = (met, x, y) =>
  path(met ? [[x, y - 4], [x + 4, y], [x + 11, y - 10]] : [[x, y], [x + 10, y - 10]], { stroke: "currentColor" }) +
  (met ? "" : path([[x, y - 10], [x + 10, y]], { stroke: "currentColor" }));

function list(left, top, width, state, result) {
  const wide = width > 620;
  const tall = wide ? 24 : 42;
  let body = "";
  claims(state, result).forEach(([key, claim, measured], k) => {
    const met = result.met[key];
    const y = top + k * tall;
    if (!met) {
      body += tag("rect", { x: left, y, width: width - left - 4, height: tall - 2, rx: 3, fill: "#F0E442", "fill-opacity": 0.32 });
    }
    const look = { "font-weight": met ? "" : "bold" };
    body += sign(met, left + 6, y + 16);
    body += label(left + 24, y + 16, met ? "met" : "not met", look);
    body += label(left + 90, y + 16, claim, look);
    body += wide ? label(left + 350, y + 16, measured, look) : label(left + 90, y + 33, measured, look);
  });
  return { body, height: claims(state, result).length * tall };
}

function legend(width, result) {
  const across = Math.max(2, Math.floor((width - 16) / 104));
  const entries = Object.keys(result.runs);
  let body = "";
  const place = (k) => [12 + 104 * (k % across), 18 + 22 * Math.floor(k / across)];
  entries.forEach((method, k) => {
    const [x, y] = place(k);
    body += path([[x, y - 4], [x + 30, y - 4]], line(method));
    body += label(x + 36, y, name(method, result), { "font-weight": method === result.method ? "bold" : "" });
  });
  const [x, y] = place(entries.length);
  body += tag("rect", { x: x + 9, y: y - 10, width: 12, height: 12, fill: "none", stroke: "currentColor", "stroke-width": 1.5 });
  body += label(x + 36, y, "true β");
  return { body, height: 22 * (Math.floor(entries.length / across) + 1) };
}

const figure = {
  name: "diagonal-lab",
  title: "The diagonal-network lab: which solution, and does the theorem hold?",
  controls: [
    { name: "m", label: "m, the size of a group, at most n", kind: "range", whole: true, min: 1, max: D, value: 1 },
    { name: "rho", label: "radius ρ", kind: "range", min: 0, max: 1, steps: 100, value: 0.14 },
    { name: "init", label: "start, u = a₀", kind: "range", log: true, min: 0.003, max: 1, steps: 100, value: 0.03 },
    { name: "stepSize", label: "step size γ", kind: "range", log: true, min: 0.01, max: 0.5, steps: 100, value: 1 / 6 },
    { name: "n", label: "examples n", kind: "range", whole: true, min: 5, max: D, value: 20 },
    { name: "sparsity", label: "true coefficients", kind: "range", whole: true, min: 1, max: 10, value: 3 },
    { name: "seed", label: "seed of the data", kind: "range", whole: true, min: 0, max: 99, value: 0 },
    { name: "rule", label: "the rule", kind: "choice", options: Object.keys(RULES), value: "as it is" },
    { name: "all", label: "n-SAM and 1-SAM, too", kind: "toggle", value: true },
  ],
  presets: [
    { label: "1-SAM: sparser and better", state: {} },
    { label: "n-SAM: smaller α, not sparser", state: { m: 20 } },
    { label: "In between: m = 4", state: { m: 4 } },
    { label: "A large start is not sparse", state: { init: 0.5, stepSize: 0.05 } },
    { label: "Ten true coefficients: no gain", state: { sparsity: 10, seed: 1 } },
    { label: "Radius too large: all dies", state: { rho: 0.8 } },
    { label: "Smaller steps: the flow", state: { stepSize: 0.03 } },
    { label: "Break it: ascent downhill", state: { rule: "ascent downhill" } },
    { label: "Break it: normalized ascent", state: { rule: "normalized ascent", rho: 0.05, init: 0.1, all: false } },
    { label: "Break it: step from the perturbed point", state: { rule: "step from the perturbed point", m: 20 } },
  ],
  compute,
  slices,
  accent: (state, result) => line(result.method).stroke,
  draw(state, result, width) {
    const wide = width > 540;
    const top = legend(width, result);
    let body = top.body;
    let y = top.height + 26;
    const box = (left, right, height) => ({ left, top: y, right, bottom: y + height });
    if (wide) {
      const middle = width * 0.53;
      body += lossPanel(box(56, middle - 12, 180), state, result);
      body += alphaPanel(box(middle + 48, width - 10, 180), state, result);
    } else {
      body += lossPanel(box(56, width - 10, 170), state, result);
      y += 170 + 66;
      body += alphaPanel(box(56, width - 10, 150), state, result);
    }
    y += (wide ? 180 : 150) + 66;
    body += betaPanel(box(56, width - 10, 150), state, result);
    y += 150 + 48;
    const rows = list(4, y, width, state, result);
    return { height: y + rows.height + 6, body: body + rows.body };
  },
  alt: (state, result) => {
    const words = claims(state, result);
    const list = (met) => words.filter(([key]) => result.met[key] === met).map(([, claim]) => claim).join("; ") || "none";
    const ends = Object.entries(result.runs).map(([method, run]) => `${name(method, result)} ${num(run.test.at(-1))}`);
    return (
      `Test loss after ${STEPS} steps: ${ends.join(", ")}. For ${name(result.method, result)}, met: ${list(true)}. ` +
      `Not met: ${list(false)}.`
    );
  },
  say: (state, result) => [
    ...Object.entries(result.runs).map(([method, run]) => [
      `${name(method, result)}: test loss`,
      num(run.test.at(-1)),
    ]),
    ["α lost to finite steps", percent(result.values.bySteps)],
    ["entropy φ of its β", potential(result.entropy.own)],
    ["entropy φ of ERM’s β", potential(result.entropy.ERM)],
  ],
};

export default mount(figure);
