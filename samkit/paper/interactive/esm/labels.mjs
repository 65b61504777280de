// Recorded runs: right and wrong labels over the epochs.
import { COLORS, axes, label, line, mount, num, path, tag } from "./kit.mjs";
import { runs } from "./labels-data.mjs";

const NOISES = [...new Set(runs.map((run) => run.noise))];
const METHODS = ["ERM", "128-SAM", "16-SAM"];
const LOOK = { ERM: "ERM", "128-SAM": "n-SAM", "16-SAM": "m-SAM" };
const EPOCHS = runs[0].epoch; // after which the networks were looked at
const LAST = EPOCHS.at(-1);
const at = (epoch) => EPOCHS.indexOf(epoch);

/** Of every method over the epochs: the share of right and of wrong labels it has fitted, its validation error. */
export function compute({ noise }) {
  return Object.fromEntries(
    METHODS.map((method) => {
      const run = runs.find((run) => run.noise === noise && run.method === method);
      const [right, wrong] = [run.right, run.wrong].map((errors) => errors.map((error) => 1 - error));
      return [method, { right, wrong, validation: run.validation }];
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
    { name: "epoch", label: "epoch", kind: "range", stops: EPOCHS, value: EPOCHS[10], keeps: true, show: (k) => `${k}` },
    { name: "noise", label: "wrong labels", kind: "choice", options: NOISES, value: "60 % symmetric" },
  ],
  presets: [
    { label: "Early: the right ones", state: { epoch: EPOCHS[7] } },
    { label: "On the way", state: { epoch: EPOCHS[11] } },
    { label: "At the end: all of them", state: { epoch: LAST } },
  ],
  compute,
  film: (seconds) => {
    const k = Math.floor(2.5 * seconds);
    return k < EPOCHS.length - 1 ? { at: k, epoch: EPOCHS[k] } : undefined;
  },
  draw(state, result, width) {
    const { plane: left, curves } = layout(width);
    const k = at(state.epoch);
    const plane = axes(left, { range: [0, 1], ticks: [0, 0.5, 1], label: "share of the right labels fitted" }, { range: [0, 1], ticks: [0, 0.5, 1], label: "share of the wrong labels fitted" });
    const seen = METHODS.flatMap((method) => result[method].validation);
    const range = [Math.min(...seen) - 0.01, Math.max(...seen) + 0.01];
    const right = axes(curves, { range: [1, LAST], log: true, ticks: [1, 3, 10, 30, LAST], label: "epoch" }, { range, label: "validation error" });
    let body = plane.body + right.body;
    METHODS.forEach((method, j) => {
      const run = result[method];
      const look = line(LOOK[method]);
      const way = run.right.map((x, i) => [plane.x(x), plane.y(run.wrong[i])]);
      body += path(way, { ...look, "stroke-opacity": 0.35 }) + path(way.slice(0, k + 1), look);
      body += tag("circle", { cx: way[k][0], cy: way[k][1], r: 6, fill: look.stroke });
      const errors = run.validation.map((x, i) => [right.x(EPOCHS[i]), right.y(x)]);
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
    const k = at(state.epoch);
    const words = METHODS.map((method) => `${method} ${share(result[method].right[k])} of the right and ${share(result[method].wrong[k])} of the wrong`);
    return `After ${state.epoch} epochs, labels fitted: ${words.join("; ")}.`;
  },
  alt: (state, result) =>
    `Share of the wrong labels fitted against that of the right ones, with ${state.noise} noise, at epoch ${state.epoch}. ` +
    METHODS.map((method) => `${method}: ${share(result[method].right[at(state.epoch)])} right, ${share(result[method].wrong[at(state.epoch)])} wrong, validation error ${share(result[method].validation[at(state.epoch)])}`).join("; ") + ".",
  say: (state, result) =>
    METHODS.flatMap((method) => {
      const found = result[method].validation;
      const lowest = Math.min(...found);
      return [
        [`${method}: lowest validation error, at epoch ${EPOCHS[found.indexOf(lowest)]}`, share(lowest)],
        [`${method}: validation error at the end`, share(found.at(-1))],
      ];
    }),
};

const share = (x) => `${num(100 * x, 3)} %`;

export default mount(figure);
