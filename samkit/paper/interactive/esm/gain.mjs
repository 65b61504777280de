// What m-SAM gains over plain training on sparse regression: predicted in two parts, and measured.
import { COLORS, axes, label, line, mount, path, tag } from "./kit.mjs";
import { runs } from "./gain-data.mjs";

const N = 20;
const ROW = 58; // pixels for a bar and its words
const DATA = { "mean of three problems": runs, "problem 0": [runs[0]], "problem 1": [runs[1]], "problem 2": [runs[2]] };

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
/** The standard error of the mean; 0 of one value. */
const error = (values) =>
  values.length < 2 ? 0 : Math.sqrt(mean(values.map((x) => (x - mean(values)) ** 2)) / (values.length - 1));

/** {law, off, on: for m = 1 to 20; measured: [{m, gain, error}]}; negative is a gain. */
export function compute({ data }) {
  const own = DATA[data];
  const all = (name) => own[0][name].map((_, k) => own.map((run) => run[name][k]));
  const [law, off] = ["law", "off"].map((name) => all(name).map(mean));
  const measured = all("measured").map((values, k) => ({ m: own[0].sizes[k], gain: mean(values), error: error(values) }));
  return { law, off, on: law.map((value, k) => value - off[k]), measured };
}

const methodOf = (m) => (m === N ? "n-SAM" : m === 1 ? "1-SAM" : "m-SAM");
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(3)}`;
const times = (log) => (10 ** log).toFixed(2);
const measuredAt = (m, result) => result.measured.find((found) => found.m === m);

function layout(width) {
  const wide = width > 540;
  const plot = { left: 52, top: 30, right: wide ? 0.56 * width : width - 14, bottom: wide ? 230 : 180 };
  const bars = wide
    ? { left: plot.right + 30, right: width - 14, top: 38 }
    : { left: 14, right: width - 14, top: plot.bottom + 56 };
  return { plot, bars };
}

const figure = {
  name: "gain",
  title: "What smaller groups gain, and why",
  controls: [
    { name: "m", label: "m: how many examples share a step uphill", kind: "range", whole: true, min: 1, max: N, value: 1, keeps: true, show: (m) => `m = ${m}` },
    { name: "data", label: "data", kind: "choice", options: Object.keys(DATA), value: "mean of three problems" },
  ],
  presets: [
    { label: "Single examples", state: {} },
    { label: "m = 4", state: { m: 4 } },
    { label: "One step for all", state: { m: N } },
    { label: "Data on which m = 4 loses", state: { m: 4, data: "problem 2" } },
  ],
  compute,
  accent: (state) => COLORS[methodOf(state.m)],
  draw(state, result, width) {
    const { plot, bars } = layout(width);
    const color = COLORS[methodOf(state.m)];
    const k = state.m - 1;
    const plane = axes(
      plot,
      { range: [0.9, 22], log: true, ticks: [1, 2, 5, 10, 20], label: "m" },
      { range: [-0.26, 0.08], ticks: [-0.2, -0.1, 0], label: "log₁₀ of the squared error over ERM’s" },
    );
    let body = plane.body;
    body += path([[plot.left, plane.y(0)], [plot.right, plane.y(0)]], { stroke: COLORS.ERM, "stroke-width": 3 });
    body += path(result.law.map((value, i) => [plane.x(i + 1), plane.y(value)]), { stroke: "currentColor" });
    for (const { m, gain, error } of result.measured) {
      body += path([[plane.x(m), plane.y(gain - error)], [plane.x(m), plane.y(gain + error)]], { stroke: COLORS[methodOf(m)] });
      body += tag("circle", { cx: plane.x(m), cy: plane.y(gain), r: 4.5, fill: COLORS[methodOf(m)] });
    }
    body += tag("circle", { cx: plane.x(state.m), cy: plane.y(result.law[k]), r: 9, fill: "none", stroke: "currentColor", "stroke-width": 2 });
    body += label(plot.right - 8, plot.bottom - 26, "line: predicted", { "font-size": 12, "text-anchor": "end" });
    body += label(plot.right - 8, plot.bottom - 10, "dots: measured", { "font-size": 12, "text-anchor": "end" });

    const most = Math.max(...[...result.off, ...result.on].map(Math.abs)) * 1.05;
    const middle = (bars.left + bars.right) / 2;
    const x = (value) => middle + (value / most) * (bars.right - middle);
    const rows = [
      ["off the support α shrinks: a gain", result.off[k], color, 1],
      ["on the support α shrinks: a loss", result.on[k], color, 0.45],
      ["together: predicted", result.law[k], "currentColor", 1],
    ];
    rows.forEach(([name, value, fill, opacity], row) => {
      const y = bars.top + ROW * row;
      body += label(bars.left, y + 8, name, { "font-size": 12 });
      body += tag("rect", { x: Math.min(middle, x(value)), y: y + 16, width: Math.abs(x(value) - middle), height: 18, fill, "fill-opacity": opacity });
      body += path([[middle, y + 13], [middle, y + 37]], line("ERM"));
      const left = value > 0; // the number stands on the side where no bar is
      body += label(middle + (left ? -6 : 6), y + 30, signed(value), { "font-size": 12, "text-anchor": left ? "end" : "start" });
    });
    return { height: Math.max(plot.bottom + 40, bars.top + ROW * rows.length), body };
  },
  tell: (state, result) => {
    const predicted = result.law[state.m - 1];
    const found = measuredAt(state.m, result);
    const who = state.m === N ? "All twenty examples share a step" : state.m === 1 ? "Each example takes its own step" : `Groups of ${state.m} share a step`;
    const ran = found ? `; it is ${times(found.gain)} times` : "";
    return (
      `${who}: the squared error is predicted to be ${times(predicted)} times that of plain training${ran}. ` +
      `The shrinkage of α off the support makes it ${times(result.off[state.m - 1])} times, that on the support ${times(result.on[state.m - 1])} times.`
    );
  },
  alt: (state, result) =>
    `The logarithm of m-SAM’s squared error over that of plain training for m = 1 to 20, predicted, and measured for m = ` +
    `${result.measured.map(({ m, gain }) => `${m} (${signed(gain)})`).join(", ")}. At m = ${state.m} the prediction is ${signed(result.law[state.m - 1])}.`,
  say: (state, result) => [
    ["predicted", signed(result.law[state.m - 1])],
    ["of it off the support", signed(result.off[state.m - 1])],
    ["of it on the support", signed(result.on[state.m - 1])],
    ["measured", measuredAt(state.m, result) ? signed(measuredAt(state.m, result).gain) : "not run: m does not divide 20"],
  ],
};

export default mount(figure);
