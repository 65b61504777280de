// The effect: sparse regression, and how many examples share a step uphill.
import { COLORS, arrow, axes, clamp, label, line, mount, num, path, tag } from "./kit.mjs";
import { dot, sample } from "./diagonal.mjs";
import { runs } from "./effect-data.mjs";
import { D, N, SPARSITY, STOPS } from "./every-m.mjs";
import { randomState } from "./numpy-legacy.mjs";

const GROUPS = 0; // seed of the groups

/** The data, {m, beta, test} of plain training (m = 0) and of the run at every stop, and `tips`. */
export function compute() {
  const set = sample({ n: N, d: D, sparsity: SPARSITY, seed: 0 });
  const [erm, ...others] = runs;
  return { set, erm, runs: others, tips: tips(set) };
}

/**
 * For every m, where each example's group steps to at the start of training, [x, y]. A group's
 * gradient in v is a0 times g, the mean of r x over it (u has none, for v = 0). g is drawn in the
 * plane of its mean over all examples (y) and the direction in which its direction varies most (x).
 */
function tips({ X, y }) {
  const g = X.map((x, i) => x.map((value) => -y[i] * value));
  const mean = average(g);
  const up = unit(mean);
  const rest = g.map((row) => unit(minus(row, up, dot(row, up))));
  const side = widest(rest.map((row) => minus(row, average(rest), 1)));
  const order = shuffled(N, randomState(GROUPS).uniform);
  return STOPS.map((m) => {
    const found = [];
    for (let first = 0; first < N; first += m) {
      const members = order.slice(first, first + m);
      const tip = average(members.map((i) => g[i]));
      for (const i of members) found[i] = [dot(tip, side), dot(tip, up)];
    }
    return found;
  });
}

const average = (rows) => rows[0].map((_, j) => rows.reduce((total, row) => total + row[j], 0) / rows.length);
const minus = (a, b, times) => a.map((value, j) => value - times * b[j]);
const unit = (a) => a.map((value) => value / Math.sqrt(dot(a, a)));

/** The first principal direction of rows of mean zero, by the power method. */
function widest(rows) {
  let found = unit(rows[0]);
  for (let k = 0; k < 1000; k++) {
    const shares = rows.map((row) => dot(row, found));
    found = unit(found.map((_, j) => rows.reduce((total, row, i) => total + shares[i] * row[j], 0)));
  }
  return found;
}

/** The numbers 0 to n - 1 in a random order. */
function shuffled(n, uniform) {
  const order = Array.from({ length: n }, (_, k) => k);
  for (let k = n - 1; k > 0; k--) {
    const j = Math.floor(uniform() * (k + 1));
    [order[k], order[j]] = [order[j], order[k]];
  }
  return order;
}

/** Where the slider stands, between two stops while the film runs. */
const place = (state) => state.at ?? STOPS.indexOf(state.m);
const methodAt = (at) => (at < 0.5 ? "n-SAM" : at > STOPS.length - 1.5 ? "1-SAM" : "m-SAM");

/** Between two stops, evenly in what `of` gives (a number). */
function between(list, at, of) {
  const k = Math.min(Math.floor(at), list.length - 2);
  return of(list[k]) + (at - k) * (of(list[k + 1]) - of(list[k]));
}

function layout(width) {
  const wide = width > 540;
  const [top, height] = wide ? [24, 150] : [40, 112];
  const left = wide ? Math.min(240, 0.28 * width) : 0.34 * width;
  const below = top + height + 40;
  return {
    arrows: { left: 4, right: left, top, bottom: top + height },
    bars: { left: left + (wide ? 62 : 46), right: width - 10, top, bottom: top + height },
    curve: { left: wide ? 58 : 46, right: width - 16, top: below, bottom: below + (wide ? 120 : 104) },
  };
}

/** What stands above a panel: in one line, or in two on a narrow page. */
const heading = (x, box, words, given = {}) =>
  (box.top < 40 ? [words.join(" ")] : words).map((text, k, all) => label(x, box.top - 10 - 16 * (all.length - 1 - k), text, given)).join("");

/** A tip for the eye: the length is the square root, or one long arrow would hide the others. */
function drawn([x, y]) {
  const length = Math.hypot(x, y);
  return length > 0 ? [x / Math.sqrt(length), y / Math.sqrt(length)] : [0, 0];
}

function arrowsPanel(box, at, result, color) {
  const stops = result.tips.map((tips) => tips.map(drawn));
  const all = stops.at(-1);
  const [left, right] = [0, ...all.map(([x]) => x)].reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [0, 0]);
  const [low, high] = [0, ...all.map(([, y]) => y)].reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)], [0, 0]);
  const scale = Math.min((box.bottom - box.top - 8) / (high - low), (box.right - box.left - 8) / (right - left));
  const x0 = (box.left + box.right - scale * (left + right)) / 2;
  const y0 = (box.top + box.bottom + scale * (low + high)) / 2;
  let body = heading(box.left, box, ["steps uphill", "(up: their mean)"]);
  all.forEach((_, i) => {
    const [x, y] = [0, 1].map((part) => between(stops, at, (tips) => tips[i][part]));
    body += arrow(x0, y0, x0 + scale * x, y0 - scale * y, color, { "stroke-width": 2.2 });
  });
  return body + tag("circle", { cx: x0, cy: y0, r: 4.5, fill: "currentColor" });
}

function barsPanel(box, at, result, color) {
  const off = [...result.set.beta.keys()].filter((j) => result.set.beta[j] === 0);
  const most = Math.max(...off.map((j) => Math.abs(result.erm.beta[j]))) * 1.1;
  const middle = (box.top + box.bottom) / 2;
  const y = (value) => middle - (clamp(value / most, -1, 1) * (box.bottom - box.top)) / 2;
  const step = (box.right - box.left) / off.length;
  const bar = (k, value, width, given) => {
    const [top, bottom] = [Math.min(y(value), middle), Math.max(y(value), middle)];
    const x = box.left + (k + 0.5) * step - width / 2;
    return tag("rect", { x, y: top, width, height: Math.max(bottom - top, 0.75), ...given });
  };
  let body = heading(box.right, box, [`${off.length} of the ${D} coefficients,`, "which should be 0"], { "text-anchor": "end" });
  for (const value of [0.01, 0, -0.01]) {
    body += label(box.left - 6, y(value) + 4, num(value), { "text-anchor": "end", "font-size": 12 });
    body += path([[box.left, y(value)], [box.right, y(value)]], {
      stroke: "currentColor", "stroke-width": 1, "stroke-opacity": value === 0 ? 0.7 : 0.15,
    });
  }
  off.forEach((j, k) => {
    body += bar(k, result.erm.beta[j], 0.86 * step, { fill: COLORS.ERM, "fill-opacity": 0.35 });
    body += bar(k, between(result.runs, at, (run) => run.beta[j]), 0.5 * step, { fill: color });
  });
  const tallest = off.reduce((k, j, other) => (result.erm.beta[j] > result.erm.beta[off[k]] ? other : k), 0);
  const beside = box.left + (tallest + 1) * step + 4;
  body += tag("rect", { x: beside, y: box.top + 1, width: 9, height: 9, fill: COLORS.ERM, "fill-opacity": 0.35 });
  return body + label(beside + 13, box.top + 10, "plain training", { "font-size": 12 });
}

function curvePanel(box, at, result, color) {
  const relative = (run) => run.test / result.erm.test;
  const seen = [...result.runs, result.erm].map(relative);
  const range = [Math.min(...seen) / 1.3, Math.max(...seen) * 1.5];
  const plane = axes(
    box,
    { range: [0, STOPS.length - 1], ticks: [] },
    { range, log: true, ticks: [0.1, 0.2, 0.5, 1], label: "test loss relative to plain training (log scale)" },
  );
  let body = plane.body;
  const level = plane.y(1);
  body += path([[box.left, level], [box.right, level]], line("ERM", { "stroke-width": 3, "stroke-opacity": 0.6 }));
  body += label(box.right, level - 9, "plain training", { "text-anchor": "end" });
  const points = result.runs.map((run, k) => [plane.x(k), plane.y(relative(run))]);
  body += path(points, { stroke: "currentColor", "stroke-width": 1.2, "stroke-dasharray": "2 4" });
  const here = [plane.x(at), plane.y(Math.exp(between(result.runs, at, (run) => Math.log(relative(run)))))];
  body += path([...points.slice(0, Math.floor(at) + 1), here], { stroke: color, "stroke-width": 3 });
  points.forEach(([cx, cy], k) => {
    body += tag("circle", { cx, cy, r: 3, fill: "currentColor" });
    body += label(cx, box.bottom + 17, `${STOPS[k]}`, { "text-anchor": "middle", "font-weight": Math.round(at) === k ? "bold" : "" });
  });
  return body + tag("circle", { cx: here[0], cy: here[1], r: 8, fill: color });
}

const HOLD = 0.9; // seconds at a stop
const MOVE = 0.6; // and to the next

/** How much lower or higher, from the ratio of two numbers. */
const compared = (ratio) =>
  ratio < 0.5 ? `${num(1 / ratio, 2)} times lower` : `${Math.round(100 * Math.abs(ratio - 1))} % ${ratio < 1 ? "lower" : "higher"}`;

const figure = {
  name: "effect",
  title: "How many examples share one step uphill?",
  controls: [
    {
      name: "m",
      label: "m: how many examples share a step uphill",
      kind: "range",
      stops: STOPS,
      value: 1,
      keeps: true,
      show: (m) => `m = ${m}`,
    },
  ],
  presets: [
    { label: "All share one", state: { m: 20 } },
    { label: "Each its own", state: { m: 1 } },
  ],
  compute,
  rolls: true,
  headline: true,
  film: (seconds) => {
    const at = Math.floor(seconds / (HOLD + MOVE));
    if (at >= STOPS.length - 1) return undefined;
    const moved = clamp((seconds - at * (HOLD + MOVE) - HOLD) / MOVE, 0, 1);
    const here = at + moved * moved * (3 - 2 * moved);
    return { at: here, m: STOPS[Math.round(here)] };
  },
  accent: (state) => COLORS[methodAt(place(state))],
  align: (width) => layout(width).curve,
  draw(state, result, width) {
    const at = place(state);
    const color = COLORS[methodAt(at)];
    const { arrows, bars, curve } = layout(width);
    const body =
      arrowsPanel(arrows, at, result, color) +
      barsPanel(bars, at, result, color) +
      curvePanel(curve, at, result, color);
    return { height: curve.bottom + 24, body };
  },
  tell: (state, result) => {
    const at = Math.round(place(state));
    const { m, test } = result.runs[at];
    const who =
      m === N
        ? `All ${N} examples share one step uphill`
        : m === 1
          ? `Each of the ${N} examples takes its own step uphill`
          : `Groups of ${m} examples share a step uphill: ${N / m} steps`;
    return `${who}. The test loss ends ${compared(test / result.erm.test)} than with plain training.`;
  },
  alt: (state, result) => {
    const { m, beta, test } = result.runs[STOPS.indexOf(state.m)];
    return (
      `Sparse regression with m = ${m}: ${N / m} ${m === N ? "arrow" : "arrows"} uphill. The coefficients that ` +
      `should be zero sum to ${num(offSupport(result, beta))}, with plain training to ` +
      `${num(offSupport(result, result.erm.beta))}. Test loss ${num(test)}, with plain training ${num(result.erm.test)}.`
    );
  },
  say: (state, result) => [
    ...[{ name: "plain training", ...result.erm }, ...result.runs.map((run) => ({ name: `m = ${run.m}`, ...run }))].map(
      ({ name, test }) => [`${name}: test loss`, num(test)],
    ),
    [`share of the examples’ variance that groups of ${state.m} keep`, `${num(100 * share(state.m), 2)} %`],
  ],
};

/** Sum of |beta| where the truth is zero. */
const offSupport = ({ set }, beta) => beta.reduce((total, value, j) => total + (set.beta[j] === 0 ? Math.abs(value) : 0), 0);

/** Of the examples' variance, what is left between random groups of m: the law in m. */
const share = (m) => (N - m) / ((N - 1) * m);

export default mount(figure);
