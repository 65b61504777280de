// What a step of m-SAM costs: recorded, by the loop over the groups and by the fast way.
import { COLORS, axes, label, mount, num, path, tag } from "./kit.mjs";
import { runs } from "./price-data.mjs";

const BATCH = 128;
const STOPS = [1, 2, 4, 8, 16, 32, 64, BATCH];
const WAYS = { loop: "2 4", ghost: "" };
const rowsOf = (network) => runs.filter((run) => run.network === network);

/** {rows, here}: the costs in SGD steps for every m, and those of the m that is chosen. */
export function compute({ network, m }) {
  const rows = rowsOf(network);
  return { rows, here: rows.find((row) => row.m === m) };
}

const methodOf = (m) => (m === BATCH ? "n-SAM" : m === 1 ? "1-SAM" : "m-SAM");
const layout = (width) => ({ left: 52, top: 30, right: width - 74, bottom: width > 540 ? 260 : 230 });
const TOP = 400;

const figure = {
  name: "price",
  title: "What does a step cost?",
  controls: [
    { name: "m", label: "m: how many examples of 128 share a step uphill", kind: "range", stops: STOPS, value: 1, show: (m) => `m = ${m}` },
    { name: "network", label: "network and machine", kind: "choice", options: [...new Set(runs.map((run) => run.network))], value: runs[0].network },
  ],
  presets: [
    { label: "Single examples", state: {} },
    { label: "Groups of 32 on convolutions", state: { m: 32, network: "small ResNet on a CPU" } },
    { label: "On a GPU", state: { network: "ResNet-18 on a GPU" } },
  ],
  compute,
  accent: (state) => COLORS[methodOf(state.m)],
  draw(state, result, width) {
    const box = layout(width);
    const plane = axes(
      box,
      { range: [0.9, 142], log: true, ticks: [1, 4, 16, 64], label: "m" },
      { range: [1, TOP], log: true, ticks: [1, 2, 10, 100], label: "cost in SGD steps" },
    );
    let body = plane.body;
    body += path([[box.left, plane.y(2)], [box.right, plane.y(2)]], { stroke: COLORS.ERM, "stroke-width": 3 });
    body += label(box.right + 6, plane.y(2) + 4, "two passes", { "font-size": 12 });
    for (const [way, dashes] of Object.entries(WAYS)) {
      const points = result.rows.map((row) => [plane.x(row.m), plane.y(row[way])]);
      body += path(points, { stroke: COLORS["m-SAM"], "stroke-dasharray": dashes });
      for (const [cx, cy] of points) body += tag("circle", { cx, cy, r: 3, fill: COLORS["m-SAM"] });
      const [x, y] = [plane.x(state.m), plane.y(result.here[way])];
      body += tag("circle", { cx: x, cy: y, r: 8, fill: "none", stroke: "currentColor", "stroke-width": 2 });
    }
    const [cx, cy] = [plane.x(result.rows[2].m), plane.y(result.rows[2].loop)];
    body += label(cx + 10, cy - 6, "loop", { "font-weight": "bold" });
    body += label(plane.x(1) + 14, plane.y(result.rows[0].ghost) - 12, "ghost", { "font-weight": "bold" });
    return { height: box.bottom + 40, body };
  },
  tell: (state, { here }) => {
    const ratio = here.loop / here.ghost;
    const compared = ratio > 1.05 ? `${num(ratio, 2)} times less` : ratio < 0.95 ? `${num(1 / ratio, 2)} times more` : "as much";
    return (
      `With m = ${state.m} the loop takes ${(2 * BATCH) / state.m} passes and costs ${num(here.loop, 2)} steps of SGD. ` +
      `The fast way takes 2 passes over the whole batch and costs ${num(here.ghost, 2)} steps: ${compared}.`
    );
  },
  alt: (state, { rows, here }) =>
    `Cost of a step of m-SAM in steps of SGD over m, on the ${state.network}: by the loop ${num(rows[0].loop, 2)} at m = ${rows[0].m} ` +
    `and ${num(rows.at(-1).loop, 2)} at m = ${rows.at(-1).m}, by the fast way ${num(rows[0].ghost, 2)} and ${num(rows.at(-1).ghost, 2)}. ` +
    `At m = ${here.m} it is ${num(here.loop, 2)} by the loop and ${num(here.ghost, 2)} by the fast way.`,
  say: (state, { here }) => [
    ["loop over the groups", `${num(here.loop)} SGD steps`],
    ["ghost, the fast way", `${num(here.ghost)} SGD steps`],
    ["auto, the faster of the two", `${num(here.auto)} SGD steps`],
  ],
};

export default mount(figure);
