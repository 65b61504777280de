// Recorded runs: the error of m-SAM over the radius, for every m.
import { COLORS, axes, label, mount, num, path, tag } from "./kit.mjs";
import { runs } from "./role-data.mjs";

const STOPS = [128, 64, 16, 4, 1];
const BATCH = 128;
const T = 2.2621572; // Student's with 9 degrees of freedom, two-sided 95 %

/** The mean of the errors of ten seeds, and half the width of its 95 % interval. */
function judged(errors) {
  const mean = errors.reduce((a, b) => a + b, 0) / errors.length;
  const square = errors.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (errors.length - 1);
  return { mean, half: T * Math.sqrt(square / errors.length) };
}

const CELLS = runs.map(({ m, rho, tuned, errors }) => ({ m, rho, tuned, judged: errors ? judged(errors) : null }));
const ERM = CELLS.filter((cell) => cell.m === 0).find((cell) => cell.judged);
const ofSize = (m) => CELLS.filter((cell) => cell.m === m).sort((a, b) => a.rho - b.rho);
const chosen = (m) => ofSize(m).find((cell) => cell.judged);

/** The radius at which the whole batch has that error, evenly in log rho between two recorded ones. */
function sameRadius(error) {
  const whole = ofSize(BATCH);
  for (let k = 0; k + 1 < whole.length; k++) {
    const [a, b] = [whole[k], whole[k + 1]];
    if (a.tuned >= error && error >= b.tuned) {
      const share = (a.tuned - error) / (a.tuned - b.tuned || 1);
      return a.rho * (b.rho / a.rho) ** share;
    }
  }
  return null;
}

/** The cell of m at the radius it chose, or at the next one that was tried (-1: shorter, 1: longer). */
export function compute({ m, radius }) {
  const own = ofSize(m);
  const here = own[own.indexOf(chosen(m)) + radius];
  return {
    cells: CELLS,
    here,
    best: Object.fromEntries(STOPS.map((size) => [size, chosen(size)])),
    erm: ERM,
    same: m === BATCH ? null : sameRadius(here.tuned),
  };
}

const colorOf = (m) => COLORS[m === BATCH ? "n-SAM" : m === 1 ? "1-SAM" : "m-SAM"];
const layout = (width) => ({ left: 44, top: 28, right: width - 68, bottom: 28 + (width > 540 ? 190 : 180) });
const TOP = 36; // percent, what is above is drawn there
const BESIDE = { 4: [8, 4], 16: [8, 0], 64: [7, 13] }; // of the label, from the end of the curve

const figure = {
  name: "role-map",
  title: "A small group, or a longer radius?",
  controls: [
    { name: "m", label: "m: examples that share a step", kind: "range", stops: STOPS, value: 16, show: (m) => `m = ${m}` },
    {
      name: "radius", label: "radius ρ: three were tried", kind: "range", stops: [-1, 0, 1], value: 0,
      show: (_, state) => `ρ = ${num(compute(state).here.rho)}`,
    },
  ],
  main: ["m", "radius"],
  presets: [
    { label: "The whole batch", state: { m: BATCH } },
    { label: "Groups of 4", state: { m: 4 } },
    { label: "Groups of 4, too long a radius", state: { m: 4, radius: 1 } },
  ],
  compute,
  headline: true,
  accent: (state) => colorOf(state.m),
  draw(state, result, width) {
    const box = layout(width);
    const plane = axes(
      box,
      { range: [0.025, 0.7], log: true, ticks: [0.03, 0.1, 0.2, 0.3, 0.6], label: "radius ρ: how long the step uphill is" },
      { range: [21, TOP], label: "error on MNIST-1D, %" },
    );
    let body = plane.body;
    const y = (error) => plane.y(Math.min(100 * error, TOP));
    body += path([[box.left, y(result.erm.judged.mean)], [box.right, y(result.erm.judged.mean)]], { stroke: COLORS.ERM, "stroke-width": 3 });
    body += label(box.right + 6, y(result.erm.judged.mean) + 4, "ERM", { "font-size": 12 });
    const level = y(result.here.tuned);
    body += path([[box.left, level], [box.right, level]], { stroke: "currentColor", "stroke-dasharray": "3 3", "stroke-width": 1.5 });
    for (const m of STOPS) {
      const now = m === state.m;
      const opacity = now ? 1 : m === BATCH ? 0.8 : 0.4; // the others stay behind these two
      const cells = ofSize(m);
      body += path(cells.map((cell) => [plane.x(cell.rho), y(cell.tuned)]), { stroke: colorOf(m), "stroke-width": opacity > 0.5 ? 3 : 1.5, "stroke-opacity": opacity });
      for (const cell of cells) {
        const x = plane.x(cell.rho);
        body += tag("circle", { cx: x, cy: y(cell.tuned), r: now ? 4 : 2.5, fill: colorOf(m), "fill-opacity": opacity });
        if (!cell.judged) continue;
        const { mean, half } = cell.judged;
        body += path([[x, y(mean - half)], [x, y(mean + half)]], { stroke: colorOf(m), "stroke-width": now ? 3 : 1.5, "stroke-opacity": opacity });
        body += tag("rect", { x: x - 5, y: y(mean) - 5, width: 10, height: 10, fill: colorOf(m), "fill-opacity": opacity });
      }
      const last = cells.at(-1);
      const [dx, dy] = BESIDE[m] ?? [8, 4];
      body += label(plane.x(last.rho) + dx, y(last.tuned) + dy, `m = ${m}`, { "font-size": 12, "font-weight": now ? "bold" : "" });
    }
    body += tag("circle", { cx: plane.x(result.here.rho), cy: level, r: 9, fill: "none", stroke: "currentColor", "stroke-width": 2 });
    if (result.same) body += tag("circle", { cx: plane.x(result.same), cy: level, r: 6, fill: "none", stroke: "currentColor", "stroke-width": 1.5 });
    return { height: box.bottom + 40, body };
  },
  tell: (state, { here, same }) => {
    const ten = here.judged ? `, and ${percent(here)} on ten new seeds` : "";
    const who = here.m === BATCH ? "The whole batch" : here.m === 1 ? "Single examples" : `Groups of ${here.m}`;
    const start = `${who} at radius ${num(here.rho)}: ${share(here.tuned)} of error while tuning${ten}.`;
    if (here.m === BATCH) return start;
    if (same) return `${start} The whole batch has the same error at a radius of about ${num(same, 2)}.`;
    const least = Math.min(...ofSize(BATCH).map((cell) => cell.tuned));
    return `${start} The whole batch ${here.tuned < least ? "gets so low at no radius" : "is better at every radius that was tried"}.`;
  },
  alt: (state, result) =>
    `Error over the radius for m = ${STOPS.join(", ")}. Judged at the best radius of each: ` +
    STOPS.map((m) => `m = ${m} ${percent(result.best[m])} at ${num(result.best[m].rho)}`).join("; ") +
    `. Shown: m = ${result.here.m} at ${num(result.here.rho)}, ${share(result.here.tuned)}.`,
  say: (state, result) => [
    ["ERM", percent(result.erm)],
    ...STOPS.map((m) => [`m = ${m}, radius ${num(result.best[m].rho)}`, percent(result.best[m])]),
  ],
};

const share = (x) => `${(100 * x).toFixed(1)} %`;
const percent = ({ judged }) => `${(100 * judged.mean).toFixed(1)} ± ${(100 * judged.half).toFixed(1)} %`;

export default mount(figure);
