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
const times = (log) => (10 ** log).toFixed(2);
const percent = (log) => `${Math.round(100 * Math.abs(10 ** log - 1))} % ${log < 0 ? "lower" : "higher"}`;
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
      { range: [0.55, 1.2], log: true, ticks: [0.6, 0.7, 0.8, 0.9, 1, 1.1], label: "squared error relative to plain training (log)" },
    );
    const y = (log) => plane.y(10 ** log);
    let body = plane.body;
    body += path([[plot.left, y(0)], [plot.right, y(0)]], { stroke: COLORS.ERM, "stroke-width": 3 });
    body += path(result.law.map((value, i) => [plane.x(i + 1), y(value)]), { stroke: "currentColor" });
    for (const { m, gain, error } of result.measured) {
      body += path([[plane.x(m), y(gain - error)], [plane.x(m), y(gain + error)]], { stroke: COLORS[methodOf(m)] });
      body += tag("circle", { cx: plane.x(m), cy: y(gain), r: 4.5, fill: COLORS[methodOf(m)] });
    }
    body += tag("circle", { cx: plane.x(state.m), cy: y(result.law[k]), r: 9, fill: "none", stroke: "currentColor", "stroke-width": 2 });
    body += label(plot.right - 8, plot.bottom - 26, "line: predicted", { "font-size": 12, "text-anchor": "end" });
    body += label(plot.right - 8, plot.bottom - 10, "dots: measured", { "font-size": 12, "text-anchor": "end" });

    const most = Math.max(...[...result.off, ...result.on].map(Math.abs)) * 1.05;
    const middle = (bars.left + bars.right) / 2;
    const x = (value) => middle + (value / most) * (bars.right - middle);
    const rows = [
      ["α shrinks where the truth is 0: a gain", result.off[k], color, 1],
      ["α shrinks where it is not 0: a loss", result.on[k], color, 0.45],
      ["together: predicted", result.law[k], "currentColor", 1],
    ];
    rows.forEach(([name, value, fill, opacity], row) => {
      const top = bars.top + ROW * row;
      body += label(bars.left, top + 8, name, { "font-size": 12 });
      body += tag("rect", { x: Math.min(middle, x(value)), y: top + 16, width: Math.abs(x(value) - middle), height: 18, fill, "fill-opacity": opacity });
      body += path([[middle, top + 13], [middle, top + 37]], line("ERM"));
      const left = value > 0; // the number stands on the side where no bar is
      body += label(middle + (left ? -6 : 6), top + 30, `× ${times(value)}`, { "font-size": 12, "text-anchor": left ? "end" : "start" });
    });
    return { height: Math.max(plot.bottom + 40, bars.top + ROW * rows.length), body };
  },
  tell: (state, result) => {
    const predicted = result.law[state.m - 1];
    const found = measuredAt(state.m, result);
    const who = state.m === N ? "All twenty examples share a step" : state.m === 1 ? "Each example takes its own step" : `Groups of ${state.m} share a step`;
    const ran = found ? `, and is ${percent(found.gain)}` : "";
    return (
      `${who}: the squared error is predicted to be ${percent(predicted)} than that of plain training${ran}. ` +
      `That α shrinks where the truth is 0 makes it ${times(result.off[state.m - 1])} times as large; that it shrinks elsewhere, ${times(result.on[state.m - 1])} times.`
    );
  },
  alt: (state, result) =>
    `m-SAM’s squared error over that of plain training for m = 1 to 20, predicted, and measured for m = ` +
    `${result.measured.map(({ m, gain }) => `${m} (${times(gain)})`).join(", ")}. At m = ${state.m} the prediction is ${times(result.law[state.m - 1])}.`,
  say: (state, result) => [
    ["predicted, times plain training’s error", times(result.law[state.m - 1])],
    ["of it where the truth is 0", times(result.off[state.m - 1])],
    ["of it where the truth is not 0", times(result.on[state.m - 1])],
    ["measured", measuredAt(state.m, result) ? times(measuredAt(state.m, result).gain) : "not run: m does not divide 20"],
  ],
};

export default mount(figure);
