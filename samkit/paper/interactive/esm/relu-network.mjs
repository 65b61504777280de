// Twelve points in 1D and one hidden layer of ReLUs, trained in the page: gradient descent beside SAM.
import { axes, clamp, label, line, mount, num, path, tag } from "./kit.mjs";
import { kinks, pathNorm, slopeChanges, start, trainer, values } from "./relu1d.mjs";
import { finish } from "./slices.mjs";

// The authors' points and where they stop.
export const X = Array.from({ length: 12 }, (_, i) => (i - 5.5) / 4 + 0.07);
export const Y = [-2, 1.5, 0, 0, 2, 1, 0, -1, 0, 1, 2, -1].map((y) => y + 0.345);
const ENOUGH = 1e-5;
const [LOW, HIGH] = [X[0] - 0.3, X[11] + 0.3];
const HEIGHT = [-3.2, 4];

// Moved points are text in the state: "3.-12_7.5" moves point 3 down by 1.2 and point 7 up by 0.5.

/** How far each point has been moved, in tenths. */
function tenths(text) {
  const found = X.map(() => 0);
  for (const part of text.split("_")) {
    const [point, by] = part.split(".").map(Number);
    if (Number.isInteger(by) && found[point - 1] === 0) {
      const [most, least] = [3.5, -2.7].map((y) => Math.round(10 * (y - Y[point - 1])));
      found[point - 1] = clamp(by, least, most);
    }
  }
  return found;
}
const asText = (found) =>
  found.flatMap((by, k) => (by ? [`${k + 1}.${by}`] : [])).join("_");
const moveTo = (state, point, by) => {
  const found = tenths(state.moved);
  found[point - 1] = Math.round(by);
  return { moved: asText(tenths(asText(found))), point };
};

/** The two trainings, `ahead` steps done: {y, ERM, SAM}, each of these a trainer. */
export const compute = (state) => finish(slices(state));

function* slices(state) {
  const y = tenths(state.moved).map((by, i) => Y[i] + by / 10);
  const begin = (rho, m) =>
    trainer({
      net: start(state.hidden, state.seed),
      x: X,
      y,
      rho,
      m,
      stepSize: state.stepSize,
      decay: rho > 0,
      steps: state.steps,
      enough: ENOUGH,
    });
  const result = { y, ERM: begin(0, X.length), SAM: begin(state.rho, state.m) };
  for (let step = 0; step < state.ahead; yield) {
    step = Math.min(step + 100, state.ahead);
    for (const run of [result.ERM, result.SAM]) run.advance(step);
  }
  return result;
}

const stepsDone = (result) => Math.max(result.ERM.step, result.SAM.step);
const over = (state, run) => run.ended || run.step >= state.steps;
const kind = (m) => ({ 12: "n-SAM", 1: "1-SAM" })[m] ?? "m-SAM";
const runs = (state, result) => [
  ["ERM", line("ERM"), result.ERM],
  [`${state.m}-SAM`, line(kind(state.m)), result.SAM],
];

/** The function as lists of points [x, f(x)] that stay between two heights. */
function pieces(net) {
  const at = [LOW, ...slopeChanges(net, LOW, HIGH).map((kink) => kink.at), HIGH];
  const f = values(net, at);
  const found = [[]];
  for (let k = 0; k + 1 < at.length; k++) {
    const [x0, f0, x1, f1] = [at[k], f[k], at[k + 1], f[k + 1]];
    // shares of this piece between which it is inside
    const [t0, t1] = HEIGHT.map((h) => (h - f0) / (f1 - f0)).sort((p, q) => p - q);
    const flat = f0 === f1;
    const inside = f0 >= HEIGHT[0] && f0 <= HEIGHT[1];
    const [from, to] = flat ? (inside ? [0, 1] : [1, 0]) : [Math.max(0, t0), Math.min(1, t1)];
    if (!(from < to)) continue;
    const point = (t) => [x0 + t * (x1 - x0), f0 + t * (f1 - f0)];
    if (from > 0 || found.at(-1).length === 0) found.push([point(from)]);
    found.at(-1).push(point(to));
    if (to < 1) found.push([]);
  }
  return found.filter((piece) => piece.length > 1);
}

const layout = (width) => {
  const wide = width > 600;
  const right = wide ? Math.round(0.6 * width) : width - 12;
  const main = { left: 40, top: 44, right, bottom: wide ? 370 : 310 };
  const side = wide
    ? { left: right + 66, top: 64, right: width - 30, bottom: 290 }
    : { left: 54, top: main.bottom + 88, right: width - 30, bottom: main.bottom + 258 };
  return { wide, main, side };
};
const plane = (box) => axes(box, { range: [LOW, HIGH], label: "x" }, { range: HEIGHT, label: "f(x)" });

const count = (steps) => Math.round(steps).toLocaleString("en");

const figure = {
  name: "relu-network",
  title: "Twelve points, one hidden layer: train it and watch",
  controls: [
    { name: "m", label: "m, the size of a group", kind: "choice", options: [12, 6, 4, 3, 2, 1], value: 12 },
    { name: "rho", label: "radius ρ", kind: "range", min: 0, max: 0.6, steps: 60, value: 0.3 },
    { name: "ahead", label: "steps shown first", kind: "range", min: 0, max: 1e5, steps: 100, value: 1e5, show: count },
    { name: "speed", label: "steps a frame", kind: "range", min: 1, max: 1000, log: true, steps: 60, value: 200, keeps: true, show: count },
    { name: "point", label: "choose a point", kind: "range", whole: true, min: 1, max: 12, value: 9, keeps: true },
    {
      name: "height",
      label: "move it up or down",
      kind: "range",
      min: -4,
      max: 4,
      steps: 80,
      get: (state) => tenths(state.moved)[state.point - 1] / 10,
      set: (state, value) => moveTo(state, state.point, 10 * value),
    },
    { name: "moved", kind: "hidden", value: "", check: (text) => asText(tenths(text)) },
    { name: "hidden", label: "hidden units", kind: "range", whole: true, min: 5, max: 100, value: 50 },
    { name: "seed", label: "seed of the start", kind: "range", whole: true, min: 0, max: 20, value: 2 },
    { name: "stepSize", label: "step size", kind: "range", min: 1e-5, max: 5e-4, log: true, steps: 60, value: 3e-4 },
    { name: "steps", label: "length of training", kind: "range", min: 1e4, max: 1e6, log: true, steps: 40, value: 1e5, show: count },
  ],
  presets: [
    { label: "The authors' training", state: { hidden: 100, stepSize: 5e-5, steps: 1e6, ahead: 0, speed: 1000 } },
    { label: "m = 1, same radius: too much", state: { m: 1 } },
    { label: "m = 1, a third of the radius", state: { m: 1, rho: 0.1 } },
    { label: "One point out of line", state: { moved: "9.-25", point: 9 } },
  ],
  compute,
  slices,
  patient: true,
  rewind: { ahead: 0 },
  tick(state, result) {
    if (over(state, result.ERM) && over(state, result.SAM)) return undefined;
    const until = stepsDone(result) + Math.round(state.speed);
    result.ERM.advance(until);
    result.SAM.advance(until);
    return result;
  },
  drag: {
    point: (state, px, py, result, width, index) => {
      const k = Number(index);
      const y = plane(layout(width).main).inverseY(py);
      return moveTo(state, k + 1, 10 * (y - Y[k]));
    },
  },
  draw(state, result, width) {
    const { wide, main, side } = layout(width);
    const functions = plane(main);
    const losses = axes(
      side,
      { range: [1, state.steps], log: true, label: "step" },
      { range: [1e-5, 1e5], log: true, label: "training loss" },
    );
    let body = functions.body + losses.body;
    runs(state, result).forEach(([name, look, run], k) => {
      for (const piece of pieces(run.net)) {
        body += path(piece.map(([x, f]) => [functions.x(x), functions.y(f)]), look);
      }
      const at = kinks(run.net, X[0], X[11]);
      values(run.net, at).forEach((f, i) => {
        if (f < HEIGHT[0] || f > HEIGHT[1]) return;
        body += tag("circle", { cx: functions.x(at[i]), cy: functions.y(f), r: 4, fill: look.stroke });
      });
      const points = [...run.losses, [run.step, run.loss]].filter(([step]) => step >= 1);
      body += path(points.map(([s, l]) => [losses.x(s), losses.y(clamp(l, 1e-5, 1e5))]), look);
      const left = main.left + 60 + 100 * k;
      body += path([[left, 14], [left + 30, 14]], look);
      body += label(left + 36, 18, name);
    });
    X.forEach((x, k) => {
      const [cx, cy] = [functions.x(x), functions.y(result.y[k])];
      const chosen = k === state.point - 1;
      body += tag(
        "g",
        { "data-drag": `point.${k}` },
        tag("circle", { cx, cy, r: 13, fill: "transparent" }) +
          (chosen ? tag("circle", { cx, cy, r: 10, fill: "none", stroke: "currentColor", "stroke-width": 2 }) : "") +
          tag("circle", { cx, cy, r: 5.5, fill: "currentColor" }),
      );
    });
    const under = [
      `${count(state.speed)} steps a frame`,
      `dots: the kinks of the functions`,
    ];
    under.forEach((text, k) => {
      body += label(side.left - 44, side.bottom + 58 + 18 * k, text);
    });
    return { height: wide ? main.bottom + 44 : side.bottom + 88, body };
  },
  alt: (state, result) =>
    `After ${count(stepsDone(result))} of ${count(state.steps)} steps on twelve points, ` +
    runs(state, result)
      .map(([name, , run]) =>
        Number.isFinite(run.loss)
          ? `${name} has loss ${num(run.loss)}, ${kinks(run.net, X[0], X[11]).length} kinks and path norm ${num(pathNorm(run.net))}`
          : `${name} has diverged`,
      )
      .join("; ") +
    ".",
  say: (state, result) => [
    ["step", `${count(stepsDone(result))} of ${count(state.steps)}`],
    ...runs(state, result).flatMap(([name, , run]) =>
      Number.isFinite(run.loss)
        ? [
            [`${name}: loss`, num(run.loss)],
            [`${name}: kinks`, `${kinks(run.net, X[0], X[11]).length}`],
            [`${name}: path norm`, num(pathNorm(run.net))],
            ...(run.ended ? [[`${name}: fitted at step`, count(run.step)]] : []),
          ]
        : [[`${name}: diverged at step`, count(run.step)]],
    ),
  ],
};

export default mount(figure);
