// Recorded runs in which SAM is switched on, or off, at a share of one training.
import { axes, label, line, mount, path, tag } from "./kit.mjs";
import { runs } from "./switch-data.mjs";

const SAM = "16-SAM";
const SCHEDULES = [...new Set(runs.map((run) => run.schedule))];
const DIRECTIONS = { [`ERM → ${SAM}`]: ["ERM", SAM], [`${SAM} → ERM`]: [SAM, "ERM"] };
const SHARES = [0, 0.25, 0.5, 0.75, 1];
const T = 2.2621572; // Student's with 9 degrees of freedom, two-sided 95 %
const look = (method, more) => line(method === "ERM" ? "ERM" : "m-SAM", more);

/** {mean, half}: with half the width of the 95 % interval of the mean, as samkit's `interval`. */
export function interval(values) {
  const mean = values.reduce((p, q) => p + q, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, half: T * Math.sqrt(squares / (values.length - 1) / values.length) };
}

/** The share of a schedule's step sizes that lie in this first share of the training. */
export function steps(schedule, share) {
  if (schedule === "cosine") return share + Math.sin(Math.PI * share) / Math.PI;
  const sizes = [[0, 0.5, 1], [0.5, 0.75, 0.1], [0.75, 1, 0.01]];
  const until = (end) => sizes.reduce((sum, [a, b, rate]) => sum + rate * Math.max(0, Math.min(b, end) - a), 0);
  return until(share) / until(1);
}

/** Test errors in percent, by seed, of the runs that change method at this share; null if not run. */
function errors(schedule, [first, then], at) {
  const [start, change] = at === 0 ? [then, 1] : [first, at];
  const found = runs.find((run) => run.schedule === schedule && run.first === start && run.at === change);
  return found ? found.errors.map((error) => 100 * error) : null;
}

/** For each direction the points that were run: where, the error, the gain over ERM, SAM's step sizes. */
export function compute({ schedule, direction, at }) {
  const erm = errors(schedule, ["ERM", SAM], 1);
  const points = Object.fromEntries(
    Object.entries(DIRECTIONS).map(([name, pair]) => [
      name,
      SHARES.filter((share) => errors(schedule, pair, share)).map((share) => {
        const found = errors(schedule, pair, share);
        const until = steps(schedule, share);
        return {
          share,
          error: interval(found),
          gain: interval(found.map((error, k) => erm[k] - error)),
          steps: pair[0] === "ERM" ? 1 - until : until,
        };
      }),
    ]),
  );
  const own = points[direction];
  const here = own.reduce((a, b) => (Math.abs(b.share - at) < Math.abs(a.share - at) ? b : a));
  return { points, here, erm: interval(erm), sam: interval(errors(schedule, ["ERM", SAM], 0)) };
}

const layout = (width) => {
  const wide = width > 600;
  const middle = Math.round(width / 2);
  return {
    wide,
    ends: { left: 48, top: 50, right: wide ? middle - 20 : width - 14, bottom: wide ? 300 : 270 },
    gains: wide
      ? { left: middle + 42, top: 50, right: width - 14, bottom: 300 }
      : { left: 48, top: 340, right: width - 14, bottom: 560 },
  };
};
const endsPlane = (box) =>
  axes(box, { range: [-0.03, 1.03], ticks: SHARES, label: "share of training before the switch" }, { range: [23, 34], label: "test error, %" });
const tenth = (x) => x.toFixed(1).replace("-", "−");
const percent = ({ mean, half }) => `${tenth(mean)} ± ${tenth(half)} %`;
const when = (at) => (at === 0 ? "0: at once" : at === 1 ? "1: never" : `${at}`);

const figure = {
  name: "switch-on",
  title: "Switch SAM on, or off, during training",
  controls: [
    { name: "at", label: "share of training before the switch", kind: "range", stops: SHARES, value: 0.5, show: when },
    { name: "direction", label: "direction", kind: "choice", options: Object.keys(DIRECTIONS), value: Object.keys(DIRECTIONS)[0] },
    { name: "schedule", label: "learning rate", kind: "choice", options: SCHEDULES, value: SCHEDULES[0] },
  ],
  presets: [
    { label: "SAM for the last quarter", state: { direction: Object.keys(DIRECTIONS)[0], at: 0.75 } },
    { label: "SAM for the first quarter", state: { direction: Object.keys(DIRECTIONS)[1], at: 0.25 } },
    { label: "The paper's schedule", state: { schedule: SCHEDULES[1], at: 0.5 } },
  ],
  compute,
  drag: {
    at: (state, px, py, result, width) => {
      const share = endsPlane(layout(width).ends).inverseX(px);
      return { at: SHARES.reduce((a, b) => (Math.abs(b - share) < Math.abs(a - share) ? b : a)) };
    },
  },
  draw(state, result, width) {
    const { wide, ends, gains } = layout(width);
    const left = endsPlane(ends);
    const right = axes(gains, { range: [-0.03, 1.03], ticks: SHARES, label: "share of the step sizes with SAM" }, { range: [-1.5, 7.5], label: "gain over ERM, points" });
    let body = left.body + right.body;
    Object.entries(DIRECTIONS).forEach(([direction, [, then]], k) => {
      const style = look(then);
      const now = direction === state.direction;
      const found = result.points[direction];
      const shift = k ? 3 : -3;
      const draw = (plane, place, value) => {
        body += path(found.map((point) => [plane.x(place(point)) + shift, plane.y(value(point).mean)]), { ...style, "stroke-opacity": now ? 1 : 0.5 });
        for (const point of found) {
          const [x, { mean, half }] = [plane.x(place(point)) + shift, value(point)];
          body += path([[x, plane.y(mean - half)], [x, plane.y(mean + half)]], { stroke: style.stroke, "stroke-width": 1.5 });
          body += tag("circle", { cx: x, cy: plane.y(mean), r: 3.5, fill: style.stroke });
        }
      };
      draw(left, (point) => point.share, (point) => point.error);
      draw(right, (point) => point.steps, (point) => point.gain);
      const [lx, ly] = [ends.left + (wide ? 4 + 150 * k : 138 * k - 34), 16];
      body += path([[lx, ly - 4], [lx + 26, ly - 4]], style) + label(lx + 32, ly, direction);
      if (!now) return;
      const ring = { r: 9, fill: "none", stroke: "currentColor", "stroke-width": 2 };
      const [cx, cy] = [left.x(result.here.share) + shift, left.y(result.here.error.mean)];
      body += tag("g", { "data-drag": "at" }, tag("circle", { cx, cy, r: 16, fill: "transparent" }) + tag("circle", { cx, cy, ...ring }));
      body += tag("circle", { cx: right.x(result.here.steps) + shift, cy: right.y(result.here.gain.mean), ...ring });
    });
    return { height: gains.bottom + 44, body };
  },
  tell: (state, result) => {
    const { here } = result;
    const nearest = here.share === state.at ? "" : " (the nearest that was run)";
    return `${state.direction} after ${here.share} of the training${nearest}: test error ${percent(here.error)}, ${percent(here.gain).replace(" %", " points")} below ERM.`;
  },
  alt: (state, result) =>
    `${state.direction}, the switch after ${result.here.share} of the training, learning rate ${state.schedule}: test error ` +
    `${percent(result.here.error)}, against ${percent(result.erm)} for ERM and ${percent(result.sam)} for ${SAM} all the time.`,
  say: (state, result) => [
    ["error at the end", percent(result.here.error)],
    ["below ERM's by", percent(result.here.gain).replace(" %", " points")],
    ["ERM only", percent(result.erm)],
    [`${SAM} only`, percent(result.sam)],
    [`share of ${SAM}'s gain`, `${((100 * (result.erm.mean - result.here.error.mean)) / (result.erm.mean - result.sam.mean)).toFixed(0).replace("-", "−")} %`],
  ],
};

export default mount(figure);
