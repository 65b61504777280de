// Where m-SAM shrinks alpha: on the support alone, or everywhere.
import { COLORS, axes, label, mount, num, path, tag } from "./kit.mjs";
import { D, N, SPARSITY, STOPS, everyM, found } from "./every-m.mjs";

export const compute = found;
const slices = everyM;

const methodOf = (m) => (m === N ? "n-SAM" : m === 1 ? "1-SAM" : "m-SAM");
const runOf = (state, result) => result.runs[STOPS.indexOf(state.m)];
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
/** The mean drop of log alpha [on the support, off it]. */
export const means = ({ lost }) => [mean([...lost].slice(0, SPARSITY)), mean([...lost].slice(SPARSITY))];

const layout = (width) => ({ left: 46, top: 44, right: width - 12, bottom: 44 + (width > 540 ? 180 : 170) });

/** A ratio in words: "6.2 % lower". */
function against(ratio) {
  const percent = 100 * Math.abs(ratio - 1);
  return percent < 0.05 ? "the same" : `${num(percent, 2)} % ${ratio < 1 ? "lower" : "higher"}`;
}

const figure = {
  name: "shrinkage",
  title: "Where does α fall?",
  controls: [
    { name: "m", label: "m: how many examples share a step uphill", kind: "range", stops: STOPS, value: N, keeps: true, show: (m) => `m = ${m}` },
    { name: "rho", label: "radius ρ", kind: "range", min: 0, max: 0.15, steps: 15, value: 0.1 },
    { name: "init", label: "start, u = a₀", kind: "range", log: true, min: 0.03, max: 0.3, steps: 20, value: 0.1 },
    { name: "seed", label: "seed of the data", kind: "range", whole: true, min: 0, max: 15, value: 0 },
  ],
  presets: [
    { label: "All share one: on the support", state: {} },
    { label: "Each its own: everywhere", state: { m: 1 } },
    { label: "Other data", state: { seed: 1 } },
  ],
  compute,
  slices,
  patient: true,
  headline: true,
  accent: (state) => COLORS[methodOf(state.m)],
  draw(state, result, width) {
    const box = layout(width);
    const { lost } = runOf(state, result);
    // a scale for each m: where alpha falls is the question, and how far says the axis
    const [low, high] = [Math.min(0, ...lost), Math.max(...lost, 1e-9)];
    const plane = axes(
      box,
      { range: [0.5, D + 0.5], ticks: [1, 10, 20, 30], label: "coefficient" },
      { range: [low * 1.1, high * 1.1], label: "by how much log α falls" },
    );
    const edge = plane.x(SPARSITY + 0.5);
    let body = tag("rect", { x: box.left, y: box.top, width: edge - box.left, height: box.bottom - box.top, fill: "currentColor", "fill-opacity": 0.1 });
    body += plane.body;
    const [wide, zero] = [((box.right - box.left) / D) * 0.7, plane.y(0)];
    lost.forEach((value, j) => {
      const y = plane.y(value);
      body += tag("rect", { x: plane.x(j + 1) - wide / 2, y: Math.min(y, zero), width: wide, height: Math.max(Math.abs(zero - y), 0.75), fill: COLORS[methodOf(state.m)] });
    });
    means({ lost }).forEach((value, side) => {
      const ends = side ? [edge, box.right] : [box.left, edge];
      body += path(ends.map((x) => [x, plane.y(value)]), { stroke: "currentColor", "stroke-dasharray": "4 4", "stroke-width": 1.5 });
    });
    const shaded = width > 540 ? "shaded: the support, where the truth is not 0" : "shaded: the support";
    body += label(box.left - 30, box.top - 28, `${shaded}; dashed: means`);
    return { height: box.bottom + 40, body };
  },
  tell: (state, result) => {
    const run = runOf(state, result);
    if (state.rho === 0) return "Without a step uphill α does not fall: this is plain training.";
    const [on, off] = means(run);
    const ratio = run.l1 / result.erm.l1;
    const sparser = ratio < 0.9995 ? "sparser than" : ratio > 1.0005 ? "less sparse than" : "as sparse as";
    return (
      `Off the support, log α falls ${num(off / on, 2)} times as far as on it. The solution is ${sparser} plain training’s: ` +
      `ℓ₁ norm ${against(ratio)}, test loss ${against(run.test / result.erm.test)}.`
    );
  },
  alt: (state, result) => {
    const [on, off] = means(runOf(state, result));
    return (
      `A bar for each of ${D} coefficients: by how much its log alpha falls with m = ${state.m}. On the ${SPARSITY} of the ` +
      `support by ${num(on)} on average, off it by ${num(off)}.`
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
