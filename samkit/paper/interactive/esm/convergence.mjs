// Convergence: the theorem's bound over the number of steps, against runs of stochastic SAM.
import { axes, clamp, label, line, mount, num, path, tag } from "./kit.mjs";

// Two losses of one weight, l' = A sin w +- sigma cos(w + 45 degrees); their mean is
// L(w) = A (1 - cos w). The variance sigma^2 cos^2 is at most sigma^2, and attains it.
const HALF = Math.SQRT1_2; // sin and cos of 45 degrees

/** The A for which both losses are beta-smooth, one of them no better: beta > sigma. */
export const amplitude = (beta, sigma) => Math.sqrt(beta * beta - (sigma * sigma) / 2) - HALF * sigma;

/** The gradient of a batch, `tilt` being its share of + minus its share of -. */
const slope = (w, A, sigma, tilt) => {
  const s = Math.sin(w);
  return A * s + tilt * sigma * HALF * (Math.cos(w) - s);
};

/** Random whole numbers below 2^32 (mulberry32). */
export function generator(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** The tilt of a random batch of b <= 32: a bit each says + or -. */
function drawn(next, b) {
  let bits = next() >>> (32 - b);
  let ones = 0;
  for (; bits; bits &= bits - 1) ones++;
  return (2 * ones - b) / b;
}

const RUNS = 12;
const STUDENT = 2.2009851600916397; // 95 % intervals from twelve runs

/**
 * RUNS runs of T steps of size 1 / (sqrt(T) beta), for each radius with the same batches: the mean over
 * t < T of L'(w_t)^2, a number a run, and where they end: {average, end}, both [radius][run].
 */
export function simulate({ beta, sigma, b, scheme, normalized, start, seed }, T, radii) {
  const A = amplitude(beta, sigma);
  const gamma = 1 / (Math.sqrt(T) * beta);
  const noise = sigma * HALF;
  const average = radii.map(() => []);
  const end = radii.map(() => []);
  for (let run = 0; run < RUNS; run++) {
    const next = generator((seed * 65536 + T) * 16 + run);
    const w = new Float64Array(radii.length).fill(start);
    const total = new Float64Array(radii.length);
    for (let t = 0; t < T; t++) {
      const tilt = drawn(next, b);
      const other = scheme === "same" ? tilt : drawn(next, b);
      for (let k = 0; k < radii.length; k++) {
        let at = w[k];
        let s = Math.sin(at);
        total[k] += A * s * (A * s);
        if (radii[k] > 0) {
          const up = A * s + other * noise * (Math.cos(at) - s);
          at += radii[k] * (normalized ? Math.sign(up) : up);
          s = Math.sin(at);
        }
        w[k] -= gamma * (A * s + tilt * noise * (Math.cos(at) - s));
      }
    }
    for (let k = 0; k < radii.length; k++) {
      average[k].push(total[k] / T);
      end[k].push(w[k]);
    }
  }
  return { average, end };
}

/** The mean of SAM's direction over all batches, at w. */
export function meanDirection({ beta, sigma, b, scheme, normalized }, rho, w) {
  const A = amplitude(beta, sigma);
  let [mean, share] = [0, 0.5 ** b];
  for (let ones = 0; ones <= b; ones++) {
    const tilt = (2 * ones - b) / b;
    const up = slope(w, A, sigma, tilt);
    const at = w + rho * (normalized ? Math.sign(up) : up);
    mean += share * slope(at, A, sigma, scheme === "same" ? tilt : 0);
    share *= (b - ones) / (ones + 1);
  }
  return mean;
}

/** Where a start comes to rest under the mean direction: the first change of its sign downhill. */
export function rest(state, rho) {
  let [w, step] = [state.start, 0.01];
  const direction = (v) => meanDirection(state, rho, v);
  const way = -Math.sign(direction(w));
  if (way === 0) return w;
  for (let k = 0; k < 1300; k++) {
    if (-Math.sign(direction(w + way * step)) !== way) break;
    w += way * step;
    if (k === 1299) return null; // it goes round and round
  }
  for (let half = 0; half < 60; half++) {
    step /= 2;
    if (-Math.sign(direction(w + way * step)) === way) w += way * step;
  }
  return w;
}

const LONGEST = 4096; // of the runs
const FURTHEST = 1e5; // of the bound

export function compute(state) {
  const { beta, sigma, b } = state;
  const T = Math.round(state.T);
  const A = amplitude(beta, sigma);
  const gap = A * (1 - Math.cos(state.start));
  const bound = (steps) => (4 * beta * gap + (8 * sigma * sigma) / b) / Math.sqrt(steps);
  const lengths = [];
  for (let length = 1; length < T; length *= 2) lengths.push(length);
  lengths.push(T);
  let last;
  const measured = lengths.map((length) => {
    last = simulate(state, length, [1 / (length ** 0.25 * beta), state.rho, 0]);
    return last.average.map((values) => {
      const mean = values.reduce((a, c) => a + c, 0) / RUNS;
      const square = values.reduce((a, c) => a + (c - mean) ** 2, 0) / (RUNS - 1);
      return [mean, STUDENT * Math.sqrt(square / RUNS)];
    });
  });
  const resting = rest(state, state.rho);
  return {
    A,
    gap,
    bound: bound(T),
    bounds: [bound(1), bound(FURTHEST)],
    lengths,
    measured, // [length][schedule]: mean, half width of its interval
    end: last.end,
    radius: 1 / (T ** 0.25 * beta),
    resting,
    floor: resting === null ? null : (A * Math.sin(resting)) ** 2,
  };
}

/** A mean and the half width of its interval, to the digits that the width leaves. */
function interval([mean, half]) {
  if (half < 1e-9 * mean) return num(mean);
  const digits = Math.max(0, 1 - Math.floor(Math.log10(half)));
  return digits > 5 ? `${num(mean)} ± ${num(half, 1)}` : `${mean.toFixed(digits)} ± ${half.toFixed(digits)}`;
}

const WINDOW = [-3.5, 6.6];

function layout(width) {
  const wide = width > 640;
  const side = wide ? (width - 140) / 2 : width - 70;
  const height = wide ? 300 : 240;
  const plot = { left: 56, top: 26, right: 56 + side, bottom: 26 + height };
  const top = wide ? plot.top : plot.bottom + 140;
  const left = wide ? plot.right + 64 : 56;
  return { plot, valley: { left, top, right: left + side, bottom: top + height } };
}

function scales(result, width) {
  const boxes = layout(width);
  const shown = [...result.bounds, ...result.measured.flat().map(([mean]) => mean)].filter((v) => v > 0);
  const most = 10 ** Math.ceil(Math.log10(Math.max(...shown)));
  const least = Math.max(10 ** Math.floor(Math.log10(Math.min(...shown))), most * 1e-8);
  const high = 2.1 * result.A;
  return {
    ...boxes,
    inPlot: axes(
      boxes.plot,
      { range: [1, FURTHEST], log: true, label: "T" },
      { range: [least, Math.max(most, 10 * least)], log: true, label: "averaged squared gradient" },
    ),
    inValley: axes(
      boxes.valley,
      { range: WINDOW, label: "w" },
      { range: [-0.85 * high, high], ticks: [0, 2 * result.A], label: "loss L − L*; below it: ends of 12 runs" },
    ),
  };
}

/** A schedule's line and mark, in the colour of the scheme. */
function look(scheme, k) {
  const method = k === 2 ? "ERM" : scheme === "same" ? "m-SAM" : "n-SAM";
  const given = line(method, { "stroke-width": k === 2 ? 4 : 2.2, "stroke-dasharray": ["", "3 4", ""][k] });
  const color = given.stroke;
  const mark = (cx, cy) =>
    k === 2
      ? tag("rect", { x: cx - 3.5, y: cy - 3.5, width: 7, height: 7, fill: color })
      : tag("circle", { cx, cy, r: 4, stroke: color, "stroke-width": 2, fill: k === 0 ? color : "none" });
  return { given, color, mark };
}

const ROWS = ["theorem's radius", "constant radius", "zero radius: SGD"];

const figure = {
  name: "convergence",
  title: "The bound, and runs of stochastic SAM under it or not",
  controls: [
    { name: "T", label: "steps T", kind: "range", log: true, min: 1, max: LONGEST, steps: 12, value: 1024, show: (v) => `${Math.round(v)}` },
    { name: "beta", label: "smoothness β", kind: "range", log: true, min: 1, max: 8, steps: 60, value: 1.2 },
    { name: "sigma", label: "noise σ", kind: "range", min: 0, max: 0.95, steps: 95, value: 0.9 },
    { name: "b", label: "batch size b", kind: "range", whole: true, min: 1, max: 32, value: 1 },
    { name: "rho", label: "the constant radius", kind: "range", min: 0, max: 5, steps: 100, value: 0.6 },
    { name: "start", label: "start w₀", kind: "range", min: -3, max: 3, steps: 120, value: 1.5 },
    { name: "scheme", label: "ascent and descent", kind: "choice", options: ["same", "independent"], value: "same" },
    { name: "seed", label: "random draw", kind: "range", whole: true, min: 1, max: 20, value: 1 },
    { name: "normalized", label: "normalized ascent", kind: "toggle", value: false },
  ],
  main: ["T", "rho", "normalized"],
  presets: [
    { label: "The theorem's radius: under the bound", state: { T: 4096 } },
    { label: "A constant radius: a floor", state: { T: 4096, rho: 1.2 } },
    { label: "Independent batches: no floor", state: { T: 4096, rho: 1.2, scheme: "independent" } },
    { label: "Larger batches: a lower floor", state: { T: 4096, rho: 1.2, b: 8 } },
    { label: "Normalized: it does not settle", state: { T: 4096, rho: 0.6, normalized: true } },
    { label: "At rest on the steepest slope", state: { T: 4096, sigma: 0, rho: 4.712, start: 2, normalized: true } },
  ],
  compute,
  drag: {
    T: (state, px, py, result, width) => ({
      T: 2 ** Math.round(Math.log2(scales(result, width).inPlot.inverseX(px))),
    }),
    start: (state, px, py, result, width) => ({
      start: Number(scales(result, width).inValley.inverseX(px).toFixed(2)),
    }),
  },
  draw(state, result, width) {
    const { plot, valley, inPlot, inValley } = scales(result, width);
    const ink = { stroke: "currentColor" };
    const y = (value) => clamp(inPlot.y(value), plot.top, plot.bottom);
    let body = inPlot.body;
    const [first, final] = result.bounds;
    body += path([[plot.left, y(first)], [plot.right, y(final)]], { ...ink, "stroke-width": 2.5 });
    if (result.floor !== null && inPlot.y(result.floor) < plot.bottom) {
      body += path([[plot.left, y(result.floor)], [plot.right, y(result.floor)]], { ...ink, "stroke-width": 1.2, "stroke-dasharray": "2 3" });
    }
    for (const k of [2, 1, 0]) {
      const { given, color, mark } = look(state.scheme, k);
      const points = result.lengths.map((length, i) => [inPlot.x(length), ...result.measured[i][k]]);
      body += path(points.map(([x, mean]) => [x, y(Math.max(mean, 1e-300))]), given);
      for (const [x, mean, half] of points) {
        const low = y(Math.max(mean - half, 1e-300));
        body += path([[x, low], [x, y(Math.max(mean + half, 1e-300))]], { stroke: color, "stroke-width": 1.5 });
        body += mark(x, y(Math.max(mean, 1e-300)));
      }
    }
    const here = inPlot.x(state.T);
    body += tag(
      "g",
      { "data-drag": "T" },
      tag("rect", { x: here - 14, y: plot.top, width: 28, height: plot.bottom - plot.top, fill: "transparent" }) +
        path([[here, plot.top], [here, plot.bottom]], { ...ink, "stroke-width": 1, "stroke-opacity": 0.6 }),
    );
    const legend = [
      ["bound", (x, at) => path([[x, at], [x + 26, at]], { ...ink, "stroke-width": 2.5 })],
      ["predicted floor", (x, at) => path([[x, at], [x + 26, at]], { ...ink, "stroke-width": 1.2, "stroke-dasharray": "2 3" })],
      ...ROWS.map((name, k) => {
        const { given, mark } = look(state.scheme, k);
        return [name, (x, at) => path([[x, at], [x + 26, at]], given) + mark(x + 13, at)];
      }),
    ];
    legend.forEach(([name, sample], k) => {
      const [lx, ly] = [plot.left - 48 + (k < 2 ? 0 : 132), plot.bottom + 56 + 21 * (k < 2 ? k : k - 2)];
      body += sample(lx, ly - 4) + label(lx + 32, ly, name);
    });

    body += inValley.body;
    const shape = Array.from({ length: 101 }, (_, k) => WINDOW[0] + ((WINDOW[1] - WINDOW[0]) * k) / 100);
    const loss = (w) => result.A * (1 - Math.cos(w));
    body += path(shape.map((w) => [inValley.x(w), inValley.y(loss(w))]), ink);
    const at = (w) => inValley.x(clamp(w, ...WINDOW));
    if (result.resting !== null && state.rho > 0) {
      const x = at(result.resting);
      const from = inValley.y(loss(result.resting));
      body += path([[x, from], [x, valley.bottom]], { ...ink, "stroke-width": 1.2, "stroke-dasharray": "2 3" });
      body += tag("circle", { cx: x, cy: from, r: 5, fill: look(state.scheme, 1).color, ...ink, "stroke-width": 1.5 });
    }
    result.end.forEach((ends, k) => {
      const row = inValley.y(-0.42 * result.A * (k + 1));
      const { mark } = look(state.scheme, k);
      body += ends.map((w) => mark(at(w), row)).join("");
      body += label(valley.right - 3, row + 4, ["theorem", "constant", "zero"][k], { "text-anchor": "end", "font-size": 12 });
    });
    const [sx, sy] = [at(state.start), inValley.y(loss(state.start))];
    body += tag(
      "g",
      { "data-drag": "start" },
      tag("circle", { cx: sx, cy: sy, r: 16, fill: "transparent" }) +
        tag("rect", { x: sx - 6, y: sy - 6, width: 12, height: 12, fill: "currentColor" }),
    );
    return { height: Math.max(plot.bottom + 110, valley.bottom + 42), body };
  },
  alt: (state, result) => {
    const [theorem, constant, zero] = result.measured.at(-1).map(([mean]) => num(mean));
    return (
      `Averaged squared gradient after ${Math.round(state.T)} steps: ${theorem} with the theorem's radius, ` +
      `${constant} with a constant radius of ${num(state.rho)}, ${zero} with radius zero; the bound is ` +
      `${num(result.bound)}. A second picture shows where the runs end on the loss.`
    );
  },
  say: (state, result) => {
    const [theorem, constant, zero] = result.measured.at(-1).map(interval);
    return [
      [state.normalized ? "bound (unnormalized)" : "bound", num(result.bound)],
      ["theorem's ρ", theorem],
      ["constant ρ", constant],
      ["ρ = 0", zero],
      ["the theorem's ρ is", num(result.radius)],
      ["L(w₀) − L*", num(result.gap)],
      ["constant rests at w", result.resting === null ? "nowhere" : num(Math.abs(result.resting) < 1e-12 ? 0 : result.resting)],
      ["its floor", result.floor === null ? "none" : num(result.floor < 1e-24 ? 0 : result.floor)],
    ];
  },
};
export default mount(figure);
