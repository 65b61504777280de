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
const RADII = [...new Set(CELLS.map((cell) => cell.rho))].filter((rho) => rho).sort((a, b) => a - b);
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

export function compute({ m, rho }) {
  const own = ofSize(m);
  // of the radii that were run, the nearest
  const here = own.reduce((a, b) => (Math.abs(Math.log(b.rho / rho)) < Math.abs(Math.log(a.rho / rho)) ? b : a));
  return {
    cells: CELLS,
    here,
    best: Object.fromEntries(STOPS.map((size) => [size, chosen(size)])),
    erm: ERM,
    same: m === BATCH ? null : sameRadius(here.tuned),
  };
}

const colorOf = (m) => COLORS[m === 1 ? "1-SAM" : "m-SAM"];
const layout = (width) => ({ left: 44, top: 30, right: width - 92, bottom: 30 + (width > 540 ? 240 : 220) });
const TOP = 36; // percent, what is above is drawn there

const figure = {
  name: "role-map",
  title: "A small group, or a longer radius?",
  controls: [
    { name: "m", label: "m: how many examples share a step uphill", kind: "range", stops: STOPS, value: 16, show: (m) => `m = ${m}` },
    { name: "rho", label: "radius ρ", kind: "range", stops: RADII, value: 0.2, show: (rho) => num(rho) },
  ],
  main: ["m", "rho"],
  presets: STOPS.map((m) => ({ label: `m = ${m} at its best`, state: { m, rho: chosen(m).rho } })),
  compute,
  accent: (state) => colorOf(state.m),
  draw(state, result, width) {
    const box = layout(width);
    const plane = axes(
      box,
      { range: [0.025, 0.7], log: true, ticks: [0.03, 0.1, 0.2, 0.3, 0.6], label: "radius ρ" },
      { range: [21, TOP], label: "error, %" },
    );
    let body = plane.body;
    const y = (error) => plane.y(Math.min(100 * error, TOP));
    body += path([[box.left, y(result.erm.judged.mean)], [box.right, y(result.erm.judged.mean)]], { stroke: COLORS.ERM, "stroke-width": 3 });
    body += label(box.right + 6, y(result.erm.judged.mean) + 4, "ERM", { "font-size": 12 });
    for (const m of STOPS) {
      const now = m === state.m;
      const cells = ofSize(m);
      const look = { stroke: colorOf(m), "stroke-width": now ? 3 : 1.2, "stroke-opacity": now ? 1 : 0.55 };
      body += path(cells.map((cell) => [plane.x(cell.rho), y(cell.tuned)]), look);
      for (const cell of cells) {
        const x = plane.x(cell.rho);
        body += tag("circle", { cx: x, cy: y(cell.tuned), r: now ? 4 : 2.5, fill: colorOf(m), "fill-opacity": now ? 1 : 0.55 });
        if (!cell.judged) continue;
        const { mean, half } = cell.judged;
        body += path([[x, y(mean - half)], [x, y(mean + half)]], { stroke: colorOf(m), "stroke-width": now ? 3 : 1.5 });
        body += tag("rect", { x: x - 5, y: y(mean) - 5, width: 10, height: 10, fill: colorOf(m), "fill-opacity": now ? 1 : 0.7 });
      }
      const last = cells.at(-1);
      body += label(plane.x(last.rho) + 7, y(last.tuned) + 4, `m = ${m}`, { "font-size": 12, "font-weight": now ? "bold" : "" });
    }
    const [hx, hy] = [plane.x(result.here.rho), y(result.here.tuned)];
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
    const nearest = here.rho === state.rho ? "" : " (the nearest that was tried)";
    const start = `m = ${here.m} at radius ${num(here.rho)}${nearest}: ${share(here.tuned)} of error while tuning.`;
    const ten = here.judged ? ` Ten new seeds judge: ${percent(here)}.` : "";
    if (here.m === BATCH) return `${start}${ten} That is the whole batch, one step uphill for all.`;
    if (same) return `${start}${ten} One step for the whole batch has the same error at a radius of about ${num(same, 2)}.`;
    const least = Math.min(...ofSize(BATCH).map((cell) => cell.tuned));
    return here.tuned < least
      ? `${start}${ten} No radius brings the whole batch so low.`
      : `${start}${ten} That is more than the whole batch has at any radius that was tried.`;
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
