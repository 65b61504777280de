// Nearby for whom? Four examples, each with a loss that is a bowl, and the worst loss nearby when m
// of them share a worst point.
import { COLORS, arrow, axes, label, mount, num, path, tag } from "./kit.mjs";

// l_i(w) = height / 2 |w - center|^2
export const BOWLS = [
  { center: [-1, 0.75], height: 1.0 },
  { center: [1.05, 0.9], height: 0.8 },
  { center: [0.9, -0.95], height: 1.2 },
  { center: [-0.95, -0.7], height: 0.7 },
];
const STOPS = [4, 2, 1];
const PAIRS = [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 3], [1, 2]]];
/** Every way to split the four into groups of m. */
const SPLITS = { 4: [[[0, 1, 2, 3]]], 2: PAIRS, 1: [[[0], [1], [2], [3]]] };
const method = (m) => ({ 4: "n-SAM", 2: "m-SAM", 1: "1-SAM" })[m];

/** A group's mean loss is a bowl too: where its worst point in the ball lies, and the loss there. */
function worst(group, w, rho) {
  const total = group.reduce((sum, i) => sum + BOWLS[i].height, 0);
  const center = [0, 1].map((k) => group.reduce((sum, i) => sum + BOWLS[i].height * BOWLS[i].center[k], 0) / total);
  const away = [w[0] - center[0], w[1] - center[1]];
  const distance = Math.hypot(...away);
  const to = distance > 0 ? away.map((x) => (rho * x) / distance) : [rho, 0]; // anywhere from the bottom
  return { to, value: mean(group, [w[0] + to[0], w[1] + to[1]]) };
}

const mean = (group, w) =>
  group.reduce((sum, i) => {
    const { center, height } = BOWLS[i];
    return sum + (height / 2) * ((w[0] - center[0]) ** 2 + (w[1] - center[1]) ** 2);
  }, 0) / group.length;

/** The objective for every m, over all splits into groups; and the worst points of one split. */
export function compute({ rho, x, y }) {
  const w = [x, y];
  const objective = Object.fromEntries(
    STOPS.map((m) => {
      const values = SPLITS[m].flatMap((split) => split.map((group) => worst(group, w, rho).value));
      return [m, values.reduce((a, b) => a + b, 0) / values.length];
    }),
  );
  const groups = Object.fromEntries(
    STOPS.map((m) => [m, SPLITS[m][0].map((group) => ({ group, ...worst(group, w, rho) }))]),
  );
  return { loss: mean([0, 1, 2, 3], w), objective, groups };
}

const RANGE = [-2.1, 2.1];
function layout(width) {
  const wide = width > 540;
  const side = wide ? Math.min(300, 0.46 * width) : width - 60;
  const plane = { left: 34, top: 14, right: 34 + side, bottom: 14 + side };
  const bars = wide
    ? { left: plane.right + 110, top: 34, right: width - 50, bottom: plane.bottom }
    : { left: 92, top: plane.bottom + 50, right: width - 50, bottom: plane.bottom + 210 };
  return { plane, bars };
}
const scales = (width) => axes(layout(width).plane, { range: RANGE, ticks: [] }, { range: RANGE, ticks: [] });
const hundredth = (value) => Number(value.toFixed(2));

const figure = {
  name: "bowls",
  title: "Nearby for whom? Own worst cases against a common one",
  controls: [
    { name: "m", label: "m: how many examples share a worst point", kind: "range", stops: STOPS, value: 1, keeps: true, show: (m) => `m = ${m}` },
    { name: "rho", label: "radius ρ", kind: "range", min: 0, max: 1, steps: 50, value: 0.5 },
    { name: "x", label: "weights, w₁", kind: "range", min: -1.5, max: 1.5, steps: 150, value: 0.1 },
    { name: "y", label: "weights, w₂", kind: "range", min: -1.5, max: 1.5, steps: 150, value: 0.16 },
  ],
  presets: [
    { label: "One worst point for all", state: { m: 4 } },
    { label: "Each its own", state: {} },
    { label: "Far from all four: hardly a difference", state: { x: 1.5, y: 1.5, rho: 0.3 } },
  ],
  compute,
  accent: (state) => COLORS[method(state.m)],
  drag: {
    w: (state, px, py, result, width) => {
      const plane = scales(width);
      return { x: hundredth(plane.inverseX(px)), y: hundredth(plane.inverseY(py)) };
    },
  },
  draw(state, result, width) {
    const { plane: box, bars } = layout(width);
    const plane = scales(width);
    const color = COLORS[method(state.m)];
    const ink = { stroke: "currentColor", fill: "none" };
    const unit = plane.x(1) - plane.x(0);
    let body = tag("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, ...ink, "stroke-opacity": 0.3 });
    BOWLS.forEach(({ center, height }, i) => {
      const [cx, cy] = [plane.x(center[0]), plane.y(center[1])];
      for (const level of [0.03, 0.12, 0.27]) {
        body += tag("circle", { cx, cy, r: unit * Math.sqrt((2 * level) / height), ...ink, "stroke-opacity": 0.4 });
      }
      body += label(cx, cy + 4, `ℓ${"₁₂₃₄"[i]}`, { "text-anchor": "middle", "font-size": 12 });
    });
    const [wx, wy] = [plane.x(state.x), plane.y(state.y)];
    body += tag("circle", { cx: wx, cy: wy, r: unit * state.rho, fill: "currentColor", "fill-opacity": 0.07, stroke: "currentColor", "stroke-dasharray": "3 3" });
    for (const { to } of result.groups[state.m]) {
      body += arrow(wx, wy, plane.x(state.x + to[0]), plane.y(state.y + to[1]), color, { "stroke-width": 3 });
    }
    body += tag(
      "g",
      { "data-drag": "w" },
      tag("circle", { cx: wx, cy: wy, r: 15, fill: "transparent" }) + tag("circle", { cx: wx, cy: wy, r: 5, fill: "currentColor" }),
    );
    body += label(bars.left - 84, bars.top - 14, "loss: here, and at the worst points nearby");
    const rows = [["here, L", result.loss, "currentColor", false]].concat(
      STOPS.map((m) => [`m = ${m}`, result.objective[m], COLORS[method(m)], m === state.m]),
    );
    const most = Math.max(...rows.map(([, value]) => value));
    const step = (bars.bottom - bars.top) / rows.length;
    rows.forEach(([name, value, fill, here], k) => {
      const y = bars.top + step * k;
      const long = (value / most) * (bars.right - bars.left);
      body += label(bars.left - 8, y + step / 2 + 4, name, { "text-anchor": "end", "font-weight": here ? "bold" : "" });
      body += tag("rect", { x: bars.left, y: y + 0.18 * step, width: long, height: 0.6 * step, fill, "fill-opacity": here || k === 0 ? 1 : 0.4 });
      body += label(bars.left + long + 6, y + step / 2 + 4, num(value), { "font-size": 12 });
    });
    return { height: Math.max(box.bottom, bars.bottom) + 12, body };
  },
  tell: (state, { objective }) => {
    const who = { 4: "All four examples share one worst point", 2: "Each pair of examples has its own worst point", 1: "Each example has its own worst point" };
    const more = state.m === 4 ? "" : `, ${num(objective[state.m] / objective[4], 3)} times the value for a common one`;
    return `${who[state.m]}: the loss there is ${num(objective[state.m])} on average${more}.`;
  },
  alt: (state, { loss, objective }) =>
    `Four bowls and a ball of radius ${num(state.rho)} around the weights. The loss is ${num(loss)}; at the worst point for ` +
    `all four examples ${num(objective[4])}, at those of pairs ${num(objective[2])}, at each example's own ${num(objective[1])}.`,
  say: (state, { loss, objective }) => [
    ["loss L", num(loss)],
    ["one worst point for all, m = 4", num(objective[4])],
    ["a worst point for each pair, m = 2", num(objective[2])],
    ["each its own, m = 1", num(objective[1])],
  ],
};

export default mount(figure);
