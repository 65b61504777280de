// Recorded runs in which SAM is switched on, or off, at an epoch of one training.
import { axes, label, line, mount, path, tag } from "./kit.mjs";
import { runs } from "./switch-data.mjs";

const DIGITS = 3; // of an error in units of 0.0001
const EPOCHS = runs[0].test[0].length / DIGITS;
const SAM = runs.map((run) => run.first).find((first) => first !== "ERM");
const DIRECTIONS = { [`ERM → ${SAM}`]: ["ERM", SAM], [`${SAM} → ERM`]: [SAM, "ERM"] };
const SWITCHES = [0, ...runs.filter((run) => run.first === "ERM").map((run) => run.at)].sort((p, q) => p - q);
const SEEDS = runs[0].test.length;
const SEED_NAMES = ["mean of all", ...Array.from({ length: SEEDS }, (_, k) => `${k}`)];
const WIDTH_OF_INTERVAL = 2.7764451051977987; // 97.5 % of Student's t, 4 degrees of freedom
const look = (method, more) => line(method === "ERM" ? "ERM" : "m-SAM", more);

/** Errors in percent, a list over the epochs for each seed. */
const decode = (strings) =>
  strings.map((text) =>
    Array.from({ length: text.length / DIGITS }, (_, k) =>
      parseInt(text.slice(DIGITS * k, DIGITS * (k + 1)), 36) / 100,
    ),
  );

/** The runs that start with one method and change to the other at an epoch; 0: at once. */
function errors([first, then], at, measure) {
  const [start, change] = at === 0 ? [then, EPOCHS] : [first, at];
  return decode(runs.find((run) => run.first === start && run.at === change)[measure]);
}

/** {mean, half}: with half the width of the 95 % interval of the mean, as samkit's `interval`. */
export function interval(values) {
  const mean = values.reduce((p, q) => p + q, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return {
    mean,
    half: WIDTH_OF_INTERVAL * Math.sqrt(squares / (values.length - 1) / values.length),
  };
}

/** Final errors by direction and switch, the curves of the chosen runs and of the two without a switch. */
export function compute(state) {
  const seed = SEED_NAMES.indexOf(state.seed) - 1;
  const all = (values) => (seed < 0 ? interval(values) : { mean: values[seed], half: 0 });
  const over = (found) => found[0].map((_, epoch) => all(found.map((run) => run[epoch])));
  const last = (found) => found.map((run) => run.at(-1));
  const chosen = errors(DIRECTIONS[state.direction], SWITCHES[state.at], state.measure);
  const erm = errors(["ERM", SAM], EPOCHS, state.measure);
  const sam = errors(["ERM", SAM], 0, state.measure);
  return {
    at: SWITCHES[state.at],
    ends: Object.fromEntries(
      Object.entries(DIRECTIONS).map(([direction, pair]) => [
        direction,
        SWITCHES.map((at) => all(last(errors(pair, at, state.measure)))),
      ]),
    ),
    curve: over(chosen),
    erm: over(erm),
    sam: over(sam),
    difference: all(last(chosen).map((error, k) => error - erm[k].at(-1))),
  };
}

const ENDS = [21, 33];
const CURVES = [20, 60];
const layout = (width) => {
  const wide = width > 600;
  const middle = Math.round(width / 2);
  return {
    wide,
    ends: { left: 44, top: 50, right: wide ? middle - 14 : width - 14, bottom: wide ? 310 : 270 },
    curves: wide
      ? { left: middle + 48, top: 50, right: width - 14, bottom: 310 }
      : { left: 44, top: 364, right: width - 14, bottom: 584 },
  };
};
const endsPlane = (box, measure) =>
  axes(box, { range: [-3, EPOCHS + 3], ticks: SWITCHES, label: "epoch of the switch" }, { range: ENDS, label: `final ${measure} error, %` });
const tenth = (x) => x.toFixed(1).replace("-", "−");
const percent = ({ mean, half }) => (half ? `${tenth(mean)} ± ${tenth(half)} %` : `${tenth(mean)} %`);
const when = (at) => (at === 0 ? "0: at once" : at === EPOCHS ? `${at}: never` : `${at}`);

const figure = {
  name: "switch-on",
  title: "Switch SAM on, or off, at an epoch of training",
  controls: [
    { name: "direction", label: "direction", kind: "choice", options: Object.keys(DIRECTIONS), value: Object.keys(DIRECTIONS)[0] },
    { name: "at", label: "epoch of the switch", kind: "range", whole: true, min: 0, max: SWITCHES.length - 1, value: 3, show: (k) => when(SWITCHES[k]) },
    { name: "measure", label: "error on", kind: "choice", options: ["validation", "test"], value: "validation" },
    { name: "seed", label: "seed", kind: "choice", options: SEED_NAMES, value: SEED_NAMES[0] },
  ],
  presets: [
    { label: "SAM for the last quarter", state: { at: 4 } },
    { label: "SAM after the first tenth", state: { at: 1 } },
    { label: "SAM for the first half", state: { direction: Object.keys(DIRECTIONS)[1], at: 3 } },
    { label: "SAM for the first tenth", state: { direction: Object.keys(DIRECTIONS)[1], at: 1 } },
  ],
  compute,
  drag: {
    at: (state, px, py, result, width) => {
      const epoch = endsPlane(layout(width).ends, state.measure).inverseX(px);
      const distance = SWITCHES.map((at) => Math.abs(at - epoch));
      return { at: distance.indexOf(Math.min(...distance)) };
    },
  },
  draw(state, result, width) {
    const { wide, ends, curves } = layout(width);
    const left = endsPlane(ends, state.measure);
    const right = axes(curves, { range: [0, EPOCHS], label: "epoch" }, { range: CURVES, label: `${state.measure} error, %` });
    let body = left.body + right.body;
    Object.entries(DIRECTIONS).forEach(([direction, [, then]], k) => {
      const style = look(then);
      const here = direction === state.direction;
      const found = result.ends[direction];
      SWITCHES.forEach((at, j) => {
        const x = left.x(at) + (k ? 3 : -3);
        const { mean, half } = found[j];
        if (half) body += path([[x, left.y(mean - half)], [x, left.y(mean + half)]], { stroke: style.stroke, "stroke-width": 1.5 });
        body += tag("circle", { cx: x, cy: left.y(mean), r: 3.5, fill: style.stroke });
      });
      const opacity = here ? 1 : 0.5;
      body += path(found.map(({ mean }, j) => [left.x(SWITCHES[j]) + (k ? 3 : -3), left.y(mean)]), { ...style, "stroke-opacity": opacity });
      const [lx, ly] = wide ? [ends.left + 4 + 150 * k, 16] : [ends.left + 138 * k - 34, 16];
      body += path([[lx, ly - 4], [lx + 26, ly - 4]], style) + label(lx + 32, ly, direction);
      if (!here) return;
      const [cx, cy] = [left.x(result.at) + (k ? 3 : -3), left.y(found[state.at].mean)];
      body += tag(
        "g",
        { "data-drag": "at" },
        tag("circle", { cx, cy, r: 16, fill: "transparent" }) +
          tag("circle", { cx, cy, r: 9, fill: "none", stroke: "currentColor", "stroke-width": 2 }),
      );
    });
    const points = (curve, from, to) =>
      curve.slice(from, to).map(({ mean }, j) => [right.x(from + j + 1), right.y(Math.min(CURVES[1], mean))]);
    const [first, then] = DIRECTIONS[state.direction];
    for (const [method, curve] of [["ERM", result.erm], [SAM, result.sam]]) {
      body += path(points(curve, 0, EPOCHS), look(method, { "stroke-width": 1.5, "stroke-opacity": 0.6 }));
    }
    const edge = (sign) =>
      result.curve.map(({ mean, half }, j) => [right.x(j + 1), right.y(Math.min(CURVES[1], mean + sign * half))]);
    const band = [...edge(1), ...edge(-1).reverse()];
    body += tag("polygon", { points: band.map((p) => p.map((z) => z.toFixed(1)).join(",")).join(" "), fill: "currentColor", "fill-opacity": 0.12 });
    body += path(points(result.curve, 0, result.at), look(first, { "stroke-width": 3, "stroke-dasharray": "" }));
    body += path(points(result.curve, Math.max(0, result.at - 1), EPOCHS), look(then, { "stroke-width": 3, "stroke-dasharray": "" }));
    const x = right.x(result.at);
    body += path([[x, curves.top], [x, curves.bottom]], { stroke: "currentColor", "stroke-dasharray": "3 3", "stroke-width": 1 });
    const side = result.at > EPOCHS / 2 ? { "text-anchor": "end" } : {};
    body += label(x + (result.at > EPOCHS / 2 ? -6 : 6), curves.top + 16, result.at === EPOCHS ? "no switch" : `${then} from here`, side);
    body += label(curves.left - 30, curves.bottom + 58, `thin: ERM and ${SAM} all the time`);
    return { height: curves.bottom + 68, body };
  },
  alt: (state, result) => {
    const end = result.ends[state.direction][state.at];
    return (
      `${state.direction}, the switch at epoch ${result.at} of ${EPOCHS}: ${state.measure} error at the end ` +
      `${percent(end)}, against ${percent(result.erm.at(-1))} for ERM and ${percent(result.sam.at(-1))} for ${SAM} all the time.`
    );
  },
  say: (state, result) => {
    const [erm, sam] = [result.erm.at(-1), result.sam.at(-1)];
    const end = result.ends[state.direction][state.at];
    const kept = (erm.mean - end.mean) / (erm.mean - sam.mean);
    return [
      ["error at the end", percent(end)],
      ["minus ERM's", percent(result.difference)],
      ["ERM only", percent(erm)],
      [`${SAM} only`, percent(sam)],
      [`share of ${SAM}'s gain`, `${(100 * kept).toFixed(0).replace("-", "−")} %`],
    ];
  },
};

export default mount(figure);
