// Recorded runs: the test error of m-SAM over the radius, for every m.
import { COLORS, axes, label, mount, num, path, tag } from "./kit.mjs";
import { runs } from "./role-data.mjs";

const STOPS = [128, 64, 16, 4, 1];
const RADII = [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1];
const BATCH = 128;

const T = { 4: 2.7764451, 3: 3.1824463, 2: 4.3026527, 1: 12.7062047 }; // Student's, two-sided 95 %
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
function half(values) {
  const center = mean(values);
  const square = values.reduce((sum, x) => sum + (x - center) ** 2, 0) / (values.length - 1);
  return T[values.length - 1] * Math.sqrt(square / values.length);
}

const CELLS = runs.map(({ m, rho, errors }) => ({ m, rho, mean: mean(errors), half: half(errors) }));
const ofSize = (m) => CELLS.filter((cell) => cell.m === m).sort((a, b) => a.rho - b.rho);
const lowest = (cells) => cells.reduce((a, b) => (b.mean < a.mean ? b : a));

/** The radius at which the whole batch has that error, evenly in log rho between two recorded ones. */
function sameRadius(error) {
  const whole = ofSize(BATCH);
  for (let k = 0; k + 1 < whole.length; k++) {
    const [a, b] = [whole[k], whole[k + 1]];
    if (a.mean >= error && error >= b.mean) {
      const share = (a.mean - error) / (a.mean - b.mean || 1);
      return a.rho * (b.rho / a.rho) ** share;
    }
  }
  return null;
}

export function compute({ m, rho }) {
  const own = ofSize(m);
  // of the radii that were run, the nearest
  const here = own.reduce((a, b) => (Math.abs(Math.log(b.rho / rho)) < Math.abs(Math.log(a.rho / rho)) ? b : a));
  return {
    cells: CELLS,
    here,
    best: Object.fromEntries(STOPS.map((size) => [size, lowest(ofSize(size))])),
    erm: CELLS.find((cell) => cell.m === 0),
    same: m === BATCH ? null : sameRadius(here.mean),
  };
}

const colorOf = (m) => COLORS[m === 1 ? "1-SAM" : "m-SAM"];
const layout = (width) => ({ left: 44, top: 30, right: width - 92, bottom: 30 + (width > 540 ? 240 : 220) });
const TOP = 34; // percent, what is above is drawn there

const figure = {
  name: "role-map",
  title: "A small group, or a longer radius?",
  controls: [
    { name: "m", label: "m: how many examples share a step uphill", kind: "range", stops: STOPS, value: 16, show: (m) => `m = ${m}` },
    { name: "rho", label: "radius ρ", kind: "range", stops: RADII, value: 0.3, show: (rho) => num(rho) },
  ],
  main: ["m", "rho"],
  presets: [
    { label: "One radius for all: 0.1, m = 1", state: { m: 1, rho: 0.1 } },
    { label: "m = 16 at its best", state: { m: 16, rho: 0.4 } },
    { label: "The whole batch at its best", state: { m: 128, rho: 0.7 } },
    { label: "Too long for m = 16", state: { m: 16, rho: 0.5 } },
  ],
  compute,
  accent: (state) => colorOf(state.m),
  draw(state, result, width) {
    const box = layout(width);
    const plane = axes(
      box,
      { range: [0.085, 1.15], log: true, ticks: [0.1, 0.2, 0.3, 0.5, 0.7, 1], label: "radius ρ" },
      { range: [20, TOP], label: "test error, %" },
    );
    let body = plane.body;
    const y = (error) => plane.y(Math.min(100 * error, TOP));
    body += path([[box.left, y(result.erm.mean)], [box.right, y(result.erm.mean)]], { stroke: COLORS.ERM, "stroke-width": 3 });
    body += label(box.right + 6, y(result.erm.mean) + 4, "ERM", { "font-size": 12 });
    for (const m of STOPS) {
      const now = m === state.m;
      const cells = ofSize(m);
      const look = { stroke: colorOf(m), "stroke-width": now ? 3 : 1.2, "stroke-opacity": now ? 1 : 0.55 };
      body += path(cells.map((cell) => [plane.x(cell.rho), y(cell.mean)]), look);
      for (const cell of cells) {
        const x = plane.x(cell.rho);
        if (now) body += path([[x, y(cell.mean - cell.half)], [x, y(cell.mean + cell.half)]], { stroke: colorOf(m), "stroke-width": 1.5 });
        body += tag("circle", { cx: x, cy: y(cell.mean), r: now ? 4.5 : 3, fill: colorOf(m), "fill-opacity": now ? 1 : 0.55 });
      }
      const last = cells.filter((cell) => 100 * cell.mean < TOP).at(-1);
      body += label(plane.x(last.rho) + 8, y(last.mean) + ({ 128: -6, 64: 17 }[m] ?? 4), `m = ${m}`, { "font-size": 12, "font-weight": now ? "bold" : "" });
    }
    const [hx, hy] = [plane.x(result.here.rho), y(result.here.mean)];
    body += tag("circle", { cx: hx, cy: hy, r: 9, fill: "none", stroke: "currentColor", "stroke-width": 2 });
    if (result.same) {
      const sx = plane.x(result.same);
      body += path([[hx, hy], [sx, hy]], { stroke: "currentColor", "stroke-dasharray": "3 3", "stroke-width": 1.5 });
      body += tag("circle", { cx: sx, cy: hy, r: 5, fill: "none", stroke: "currentColor", "stroke-width": 1.5 });
    }
    return { height: box.bottom + 40, body };
  },
  tell: (state, result) => {
    const { here, same } = result;
    const nearest = here.rho === state.rho ? "" : " (the nearest that was run)";
    const start = `m = ${here.m} at radius ${num(here.rho)}${nearest}: ${percent(here)} of error.`;
    if (here.m === BATCH) return `${start} That is the whole batch, one step uphill for all.`;
    if (same) return `${start} One step for the whole batch has the same error at a radius of about ${num(same, 2)}.`;
    const whole = result.best[BATCH];
    return here.mean < whole.mean
      ? `${start} No radius brings the whole batch so low: its best is ${percent(whole)}.`
      : `${start} That is more than the whole batch has at any radius that was run.`;
  },
  alt: (state, result) =>
    `Test error over the radius for m = ${STOPS.join(", ")}. The best of each: ` +
    STOPS.map((m) => `m = ${m} ${percent(result.best[m])} at ${num(result.best[m].rho)}`).join("; ") +
    `. Shown: m = ${result.here.m} at ${num(result.here.rho)}, ${percent(result.here)}.`,
  say: (state, result) => [
    ["ERM", percent(result.erm)],
    ...STOPS.map((m) => [`m = ${m}, best radius ${num(result.best[m].rho)}`, percent(result.best[m])]),
  ],
};

const percent = (cell) => `${(100 * cell.mean).toFixed(1)} ± ${(100 * cell.half).toFixed(1)} %`;

export default mount(figure);
