// Where m-SAM shrinks alpha: on the support alone, or everywhere.
import { COLORS, axes, label, mount, num, path, tag } from "./kit.mjs";
import { D, N, SPARSITY, STOPS, everyM, found } from "./every-m.mjs";

export const compute = found;
const slices = everyM;

const methodOf = (m) => (m === N ? "n-SAM" : m === 1 ? "1-SAM" : "m-SAM");
const runOf = (state, result) => result.runs[STOPS.indexOf(state.m)];
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
/** The mean loss of log alpha [on the support, off it]. */
export const means = ({ lost }) => [mean([...lost].slice(0, SPARSITY)), mean([...lost].slice(SPARSITY))];

const layout = (width) => ({ left: 46, top: 40, right: width - 12, bottom: 40 + (width > 540 ? 210 : 180) });

const figure = {
  name: "shrinkage",
  title: "Where does alpha shrink?",
  controls: [
    { name: "m", label: "m: how many examples share a step uphill", kind: "range", stops: STOPS, value: 1, keeps: true, show: (m) => `m = ${m}` },
    { name: "rho", label: "radius ρ", kind: "range", min: 0, max: 0.15, steps: 15, value: 0.1 },
    { name: "init", label: "start, u = a₀", kind: "range", log: true, min: 0.03, max: 0.3, steps: 20, value: 0.1 },
    { name: "seed", label: "seed of the data", kind: "range", whole: true, min: 0, max: 15, value: 0 },
  ],
  presets: [
    { label: "n-SAM: on the support", state: { m: 20 } },
    { label: "1-SAM: everywhere", state: {} },
    { label: "Other data", state: { seed: 1 } },
  ],
  compute,
  slices,
  patient: true,
  accent: (state) => COLORS[methodOf(state.m)],
  draw(state, result, width) {
    const box = layout(width);
    const run = runOf(state, result);
    const color = COLORS[methodOf(state.m)];
    // one scale for every m, so that the eye may compare
    const most = Math.max(...result.runs.flatMap(({ lost }) => [...lost]), 1e-9) * 1.2;
    const low = Math.min(0, ...result.runs.flatMap(({ lost }) => [...lost]));
    const plane = axes(
      box,
      { range: [0.5, D + 0.5], ticks: [1, 10, 20, 30], label: "coefficient" },
      { range: [low * 1.1, most], label: "what log α loses" },
    );
    let body = tag("rect", { x: plane.x(0.5), y: box.top, width: plane.x(SPARSITY + 0.5) - plane.x(0.5), height: box.bottom - box.top, fill: "currentColor", "fill-opacity": 0.1 });
    body += plane.body;
    body += label(plane.x(SPARSITY + 0.5) + 6, box.top + 14, width > 540 ? "shaded: the support, where the truth is not 0" : "shaded: the support", { "font-size": 12 });
    const [wide, zero] = [((box.right - box.left) / D) * 0.7, plane.y(0)];
    run.lost.forEach((value, j) => {
      const y = plane.y(value);
      body += tag("rect", { x: plane.x(j + 1) - wide / 2, y: Math.min(y, zero), width: wide, height: Math.max(Math.abs(zero - y), 0.75), fill: color });
    });
    const [, off] = means(run);
    body += path([[plane.x(SPARSITY + 0.5), plane.y(off)], [box.right, plane.y(off)]], { stroke: "currentColor", "stroke-dasharray": "4 4", "stroke-width": 1.5 });
    return { height: box.bottom + 40, body };
  },
  tell: (state, result) => {
    const run = runOf(state, result);
    const [on, off] = means(run);
    const ratio = run.l1 / result.erm.l1;
    if (state.rho === 0) return "Without a step uphill nothing shrinks α: this is ERM.";
    const sparser = ratio < 0.9995 ? "sparser" : ratio > 1.0005 ? "less sparse" : "as sparse";
    return (
      `Log α loses ${num((100 * off) / on, 2)} % as much off the support as on it. The solution is ${sparser} ` +
      `${sparser === "as sparse" ? "as" : "than"} ERM’s: its ℓ₁ norm is ${num(ratio, 4)} times as large, its test loss ${num(run.test / result.erm.test, 2)} times.`
    );
  },
  alt: (state, result) => {
    const [on, off] = means(runOf(state, result));
    return (
      `A bar for each of ${D} coefficients: what its log alpha loses with m = ${state.m}. On the ${SPARSITY} of the support ` +
      `${num(on)} on average, off it ${num(off)}.`
    );
  },
  say: (state, result) => {
    const run = runOf(state, result);
    const [on, off] = means(run);
    return [
      ["mean on the support", num(on)],
      ["mean off the support", num(off)],
      ["ℓ₁ norm, over ERM’s", num(run.l1 / result.erm.l1, 5)],
      ["test loss, over ERM’s", num(run.test / result.erm.test)],
    ];
  },
};

export default mount(figure);
