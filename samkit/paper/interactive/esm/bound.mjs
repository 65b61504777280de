// The PAC-Bayes bound for random perturbations of trained networks: over the noise and the number
// of examples, against the test error and against guessing.
import { COLORS, axes, label, mount, num, path, tag } from "./kit.mjs";

const DELTA = 0.05; // the failure probability
const GUESSING = 0.9; // ten classes
/**
 * Four networks that plain training has fitted to 4000 signals, as in the chapter: their size and mean
 * distance from the start, their mean error on the test set, and on the training set (mean of 20
 * draws each) when noise is added to every weight.
 */
export const NETWORK = {
  size: 3274,
  distance: 22.7233,
  test: 0.43,
  levels: [
    [0.01, 0.1695], [0.01585, 0.1763], [0.02512, 0.1906], [0.03981, 0.2231], [0.0631, 0.2795], [0.1, 0.3692],
    [0.1585, 0.5019], [0.2512, 0.6519], [0.3981, 0.7685], [0.631, 0.8341], [1, 0.8734], [1.585, 0.8881],
    [2.512, 0.8936], [3.981, 0.897], [6.31, 0.8985], [10, 0.9028],
  ],
};
const NOISE = NETWORK.levels.map(([s]) => s);
const EXAMPLES = Array.from({ length: 11 }, (_, k) => 1000 * 2 ** k);

/** C(w), as samkit.theory.pac_bayes.complexity. */
export function complexity(n, s) {
  const { size: k, distance } = NETWORK;
  const x = k * Math.log1p(distance ** 2 / (k * s * s));
  const j = Math.ceil(x);
  const union = Math.log((j + 1) * (j + 2));
  return Math.sqrt((x + 1 + 2 * Math.log(n / DELTA) + 2 * union) / (4 * (n - 1)));
}

/** The least whole n at which the bound of a level is below an error; null if there is none. */
function enough([s, noisy], error) {
  if (noisy >= error) return null;
  let [low, high] = [2, 2];
  const below = (n) => noisy + complexity(n, s) < error;
  while (!below(high)) high *= 2;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (below(middle)) high = middle;
    else low = middle;
  }
  return high;
}

/** Of all levels the one that needs the fewest examples: {n, s}. */
function fewest(error) {
  const found = NETWORK.levels.map((level) => ({ n: enough(level, error), s: level[0] }));
  return found.filter(({ n }) => n !== null).reduce((a, b) => (b.n < a.n ? b : a));
}
const FEWEST = { guessing: fewest(GUESSING), test: fewest(NETWORK.test) };

export function compute({ n, s }) {
  const levels = NETWORK.levels.map(([at, noisy]) => ({ s: at, noisy, bound: noisy + complexity(n, at) }));
  const chosen = NETWORK.levels[NOISE.indexOf(s)];
  return {
    levels,
    here: levels[NOISE.indexOf(s)],
    best: levels.reduce((a, b) => (b.bound < a.bound ? b : a)),
    enough: { guessing: enough(chosen, GUESSING), test: enough(chosen, NETWORK.test) },
    fewest: FEWEST,
  };
}

const TOP = 2;
const whole = (n) => (n === null ? "no number is enough" : `${n}`.replace(/\B(?=(\d{3})+$)/g, ","));
const layout = (width) => ({ left: 44, top: 30, right: width - (width > 540 ? 118 : 92), bottom: 30 + (width > 540 ? 240 : 220) });
const places = { range: [0.01, 10], log: true, label: "noise s on every weight" };

const figure = {
  name: "bound",
  title: "How many examples would it take?",
  controls: [
    { name: "n", label: "n: how many examples", kind: "range", stops: EXAMPLES, value: 4000, show: whole },
    { name: "s", label: "noise s", kind: "range", stops: NOISE, value: 0.0631, show: (s) => num(s) },
  ],
  main: ["n", "s"],
  presets: [
    { label: "As trained: 4,000 examples", state: {} },
    { label: "Noise that leaves nothing", state: { s: 10 } },
    { label: "Twice as many examples", state: { n: 8000 } },
    { label: "Thirty-two times as many", state: { n: 128000, s: 0.02512 } },
  ],
  compute,
  accent: () => COLORS.random,
  draw(state, result, width) {
    const box = layout(width);
    const plane = axes(box, places, { range: [0, TOP], label: "error" });
    const y = (value) => plane.y(Math.min(value, TOP));
    let body = plane.body;
    const across = (value, name, look) => {
      body += path([[box.left, y(value)], [box.right, y(value)]], look);
      body += label(box.right + 6, y(value) + 4, name, { "font-size": 12 });
    };
    across(GUESSING, "guessing", { stroke: COLORS.ERM, "stroke-width": 3 });
    across(NETWORK.test, "test error", { stroke: "currentColor", "stroke-dasharray": "8 4" });
    const x = plane.x(state.s);
    body += path([[x, box.top], [x, box.bottom]], { stroke: "currentColor", "stroke-opacity": 0.4, "stroke-width": 1.5 });
    const line = (of, look) => path(result.levels.map((level) => [plane.x(level.s), y(of(level))]), look);
    body += line(({ noisy }) => noisy, { stroke: "currentColor", "stroke-dasharray": "2 4" });
    body += line(({ bound }) => bound, { stroke: COLORS.random, "stroke-width": 3.5 });
    const first = result.levels[0];
    body += label(box.left + 8, y(first.noisy) - 10, "training error under noise", { "font-size": 12 });
    body += tag("circle", { cx: x, cy: y(result.here.bound), r: 6, fill: COLORS.random });
    const [side, anchor] = x < (box.left + box.right) / 2 ? [9, "start"] : [-9, "end"];
    body += label(x + side, y(result.here.bound) - 9, `the bound: ${num(result.here.bound)}`, { "font-weight": "bold", "text-anchor": anchor });
    return { height: box.bottom + 40, body };
  },
  tell: (state, { here }) => {
    const start = `With ${whole(state.n)} examples and noise ${num(state.s)} the bound promises an error of at most ${num(here.bound)}.`;
    if (here.bound >= GUESSING) return `${start} Guessing already errs in ${GUESSING} of all cases, so this promises nothing.`;
    if (here.bound >= NETWORK.test) return `${start} That is better than guessing, and above the test error of ${NETWORK.test}.`;
    return `${start} That is below the test error of ${NETWORK.test} of the network that was trained on 4,000.`;
  },
  alt: (state, { here, best }) =>
    `The bound on the error and the training error under noise, over the noise on the weights, for ${whole(state.n)} examples. ` +
    `At noise ${num(state.s)} the bound is ${num(here.bound)}; its lowest value is ${num(best.bound)}, at noise ${num(best.s)}. ` +
    `Guessing errs in ${GUESSING} of all cases, and the test error is ${NETWORK.test}.`,
  say: (state, { here, best, enough: n, fewest: least }) => [
    ["training error under noise", num(here.noisy)],
    ["what the bound adds, C(w)", num(here.bound - here.noisy)],
    ["lowest bound over all s", `${num(best.bound)} at s = ${num(best.s)}`],
    ["examples for less than guessing, at this s", whole(n.guessing)],
    ["examples for the test error, at this s", whole(n.test)],
    ["examples for less than guessing, at the best s", `${whole(least.guessing.n)} at s = ${num(least.guessing.s)}`],
    ["examples for the test error, at the best s", `${whole(least.test.n)} at s = ${num(least.test.s)}`],
  ],
};

export default mount(figure);
