// Recorded runs: right and wrong labels over the epochs.
import { COLORS, axes, label, line, mount, num, path, tag } from "./kit.mjs";
import { runs } from "./labels-data.mjs";

const NOISES = [...new Set(runs.map((run) => run.noise))];
const METHODS = ["ERM", "128-SAM", "16-SAM"];
const LOOK = { ERM: "ERM", "128-SAM": "n-SAM", "16-SAM": "m-SAM" };
const EPOCHS = 100;

const series = (text) =>
  Array.from({ length: text.length / 3 }, (_, k) => parseInt(text.slice(3 * k, 3 * k + 3), 36) / 10000);

/** Of every method over the epochs: the share of right and of wrong labels it has fitted, its test error. */
export function compute({ noise }) {
  return Object.fromEntries(
    METHODS.map((method) => {
      const run = runs.find((run) => run.noise === noise && run.method === method);
      const [right, wrong] = [run.right, run.wrong].map((text) => series(text).map((error) => 1 - error));
      return [method, { right, wrong, test: series(run.test) }];
    }),
  );
}

function layout(width) {
  const wide = width > 540;
  const side = wide ? Math.min(270, 0.42 * width) : width - 66;
  const height = wide ? side : 210;
  const plane = { left: 46, top: 44, right: 46 + side, bottom: 44 + height };
  const curves = wide
    ? { left: plane.right + 74, top: 44, right: width - 12, bottom: plane.bottom }
    : { left: 46, top: plane.bottom + 76, right: width - 20, bottom: plane.bottom + 236 };
  return { plane, curves };
}

const figure = {
  name: "labels",
  title: "Which labels are fitted first?",
  controls: [
    { name: "epoch", label: "epoch", kind: "range", whole: true, min: 1, max: EPOCHS, value: 20, keeps: true, show: (k) => `${k}` },
    { name: "noise", label: "wrong labels", kind: "choice", options: NOISES, value: "60 % symmetric" },
  ],
  presets: [
    { label: "Early: the right ones", state: { epoch: 12 } },
    { label: "On the way", state: { epoch: 30 } },
    { label: "At the end: all of them", state: { epoch: 100 } },
  ],
  compute,
  film: (seconds) => {
    const at = 12 * seconds;
    return at < EPOCHS - 1 ? { at, epoch: 1 + Math.floor(at) } : undefined;
  },
  draw(state, result, width) {
    const { plane: left, curves } = layout(width);
    const k = state.epoch - 1;
    const plane = axes(left, { range: [0, 1], ticks: [0, 0.5, 1], label: "share of the right labels fitted" }, { range: [0, 1], ticks: [0, 0.5, 1], label: "share of the wrong labels fitted" });
    const seen = METHODS.flatMap((method) => result[method].test);
    const range = [Math.min(...seen) - 0.01, Math.max(...seen) + 0.01];
    const right = axes(curves, { range: [1, EPOCHS], ticks: [1, 50, 100], label: "epoch" }, { range, label: "test error" });
    let body = plane.body + right.body;
    METHODS.forEach((method, j) => {
      const run = result[method];
      const look = line(LOOK[method]);
      const way = run.right.map((x, i) => [plane.x(x), plane.y(run.wrong[i])]);
      body += path(way, { ...look, "stroke-opacity": 0.35 }) + path(way.slice(0, k + 1), look);
      body += tag("circle", { cx: way[k][0], cy: way[k][1], r: 6, fill: look.stroke });
      const errors = run.test.map((x, i) => [right.x(i + 1), right.y(x)]);
      body += path(errors, { ...look, "stroke-width": 2 });
      body += tag("circle", { cx: errors[k][0], cy: errors[k][1], r: 5, fill: look.stroke });
      const x = 10 + (width > 540 ? 120 : 105) * j;
      body += path([[x, 12], [x + 26, 12]], look) + label(x + 32, 16, method);
    });
    const here = right.x(state.epoch);
    body += path([[here, curves.top], [here, curves.bottom]], { stroke: "currentColor", "stroke-opacity": 0.5, "stroke-width": 1 });
    return { height: curves.bottom + 40, body };
  },
  tell: (state, result) => {
    const k = state.epoch - 1;
    const words = METHODS.map((method) => `${method} ${share(result[method].right[k])} of the right and ${share(result[method].wrong[k])} of the wrong`);
    return `After ${state.epoch} epochs, labels fitted: ${words.join("; ")}.`;
  },
  alt: (state, result) =>
    `Share of the wrong labels fitted against that of the right ones, with ${state.noise} noise, at epoch ${state.epoch}. ` +
    METHODS.map((method) => `${method}: ${share(result[method].right[state.epoch - 1])} right, ${share(result[method].wrong[state.epoch - 1])} wrong, test error ${share(result[method].test[state.epoch - 1])}`).join("; ") + ".",
  say: (state, result) =>
    METHODS.flatMap((method) => {
      const lowest = Math.min(...result[method].test);
      return [
        [`${method}: lowest test error, at epoch ${result[method].test.indexOf(lowest) + 1}`, share(lowest)],
        [`${method}: test error at the end`, share(result[method].test.at(-1))],
      ];
    }),
};

const share = (x) => `${num(100 * x, 3)} %`;

export default mount(figure);
