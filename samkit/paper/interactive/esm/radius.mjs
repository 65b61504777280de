// Recorded runs: five ways to perturb, their error over the radius and what each gains at its best.
import { COLORS, axes, label, line, mount, num, path, tag } from "./kit.mjs";
import { runs } from "./radius-data.mjs";

const METHODS = [...new Set(runs.map((run) => run.method))].slice(1); // the first is ERM
const ERM = runs[0].tuned;
const RADII = [...new Set(runs.slice(1).map((run) => run.rho))].sort((a, b) => a - b);
const WHO = {
  random: "A random direction",
  "n-SAM previous": "The worst direction of the previous batch",
  "n-SAM": "The worst direction of another batch",
  "128-SAM": "SAM, the batch’s own worst direction,",
  "16-SAM": "SAM with groups of 16",
};
const ofMethod = (method) => runs.filter((run) => run.method === method);
const chosen = (method) => ofMethod(method).find((run) => run.gain);
const middle = ([low, high]) => (low + high) / 2;

/** The run of the method whose radius is nearest to that one, and the best of each method. */
export function compute({ method, rho }) {
  const far = (run) => Math.abs(Math.log(run.rho / rho));
  const here = ofMethod(method).reduce((a, b) => (far(b) < far(a) ? b : a));
  return { here, best: Object.fromEntries(METHODS.map((name) => [name, chosen(name)])) };
}

const look = (method, more) =>
  line(method.startsWith("n-SAM") ? "n-SAM" : method === "random" ? "random" : "m-SAM", {
    "stroke-dasharray": method === "n-SAM previous" || method === "16-SAM" ? "5 4" : "",
    ...more,
  });
const TOP = 36; // percent, what is above is drawn there
const points = (x) => (100 * x).toFixed(1).replace("-", "−");
const gained = ({ gain: [low, high] }) => `${points(middle([low, high]))} ± ${points((high - low) / 2)} points`;

function layout(width) {
  const wide = width > 600;
  const plot = { left: 44, top: 28, right: wide ? Math.round(0.54 * width) : width - 14, bottom: 238 };
  const bars = wide
    ? { left: plot.right + 126, top: 28, right: width - 14, bottom: 238 }
    : { left: 112, top: 300, right: width - 14, bottom: 450 };
  return { plot, bars };
}
const plane = (box) =>
  axes(
    box,
    { range: [0.085, 27], log: true, ticks: [0.1, 0.3, 1, 3, 10], label: "radius ρ" },
    { range: [23, TOP], label: "error while tuning, %" },
  );

const figure = {
  name: "radius",
  title: "A random direction gains half as much as SAM’s, at nineteen times its length",
  controls: [
    { name: "rho", label: "radius ρ", kind: "range", stops: RADII, value: 5.6, show: (rho) => `ρ = ${num(rho)}` },
    { name: "method", label: "direction", kind: "choice", options: METHODS, value: "random" },
  ],
  main: ["rho", "method"],
  presets: [
    { label: "Random at its best", state: {} },
    { label: "Random, as short as SAM", state: { rho: 0.3 } },
    { label: "SAM at its best", state: { method: "128-SAM", rho: 0.3 } },
    { label: "Another batch’s direction", state: { method: "n-SAM", rho: 0.45 } },
  ],
  compute,
  accent: (state) => look(state.method).stroke,
  drag: {
    rho: (state, px, py, result, width) => {
      const at = Math.log(plane(layout(width).plot).inverseX(px));
      const far = (rho) => Math.abs(Math.log(rho) - at);
      return { rho: RADII.reduce((a, b) => (far(b) < far(a) ? b : a)) };
    },
  },
  draw(state, { here, best }, width) {
    const { plot, bars } = layout(width);
    const left = plane(plot);
    const right = axes(bars, { range: [0, 5.5], ticks: [0, 1, 2, 3, 4, 5], label: "gain over ERM, points" }, { range: [0, METHODS.length], ticks: [] });
    const y = (error) => left.y(Math.min(100 * error, TOP));
    let body = left.body + right.body;
    body += path([[plot.left, y(ERM)], [plot.right, y(ERM)]], line("ERM"));
    body += label(plot.right - 6, y(ERM) - 8, "ERM", { "font-size": 12, "text-anchor": "end" });
    body += path([[right.x(1), bars.top], [right.x(1), bars.bottom]], { stroke: "currentColor", "stroke-dasharray": "2 3", "stroke-width": 1 });
    METHODS.forEach((method, k) => {
      const now = method === state.method;
      const opacity = now ? 1 : method === "128-SAM" ? 0.9 : 0.65; // what is shown, and SAM, stand before the others
      const style = look(method, { "stroke-opacity": opacity, "stroke-width": now ? 3 : 1.8 });
      body += path(ofMethod(method).map((run) => [left.x(run.rho), y(run.tuned)]), style);
      for (const run of ofMethod(method))
        body += tag("circle", { cx: left.x(run.rho), cy: y(run.tuned), r: now ? 4 : 2.5, fill: style.stroke, "fill-opacity": opacity });
      const at = right.y(METHODS.length - k - 0.5);
      const solid = { ...style, "stroke-dasharray": "" };
      body += path(best[method].gain.map((end) => [right.x(100 * end), at]), solid);
      body += tag("circle", { cx: right.x(100 * middle(best[method].gain)), cy: at, r: 5, fill: style.stroke, "fill-opacity": opacity });
      body += path([[bars.left - 112, at], [bars.left - 96, at]], style);
      body += label(bars.left - 92, at + 4, method, { "font-size": 12, "font-weight": now ? "bold" : "" });
    });
    const [cx, cy] = [left.x(here.rho), y(here.tuned)];
    const ring = { cx, cy, r: 9, fill: "none", stroke: "currentColor", "stroke-width": 2 };
    body += tag("g", { "data-drag": "rho" }, tag("circle", { cx, cy, r: 16, fill: "transparent" }) + tag("circle", ring));
    return { height: bars.bottom + 44, body };
  },
  tell: (state, { here, best }) => {
    const below = ERM - here.tuned;
    const nearest = here.rho === state.rho ? "" : ", the nearest that was run";
    const start = `${WHO[here.method]} of length ${num(here.rho)}${nearest}: the error while tuning is ${points(Math.abs(below))} points ${below > 0 ? "below" : "above"} plain training’s.`;
    const sam = best["128-SAM"];
    if (!here.gain) return `${start} It does best at ${num(best[here.method].rho)}.`;
    const all = `${start} No length that was tried is better for it. There, ten new seeds gain ${gained(here)}`;
    if (here === sam) return `${all}.`;
    const [length, gain] = [here.rho / sam.rho, middle(here.gain) / middle(sam.gain)];
    return `${all}. That is ${Math.round(100 * gain)} % of what SAM gains, at ${num(length, 2)} times its radius.`;
  },
  alt: (state, { here, best }) =>
    `Error over the radius for five ways to perturb, and the gain of each over plain training at its best radius: ` +
    METHODS.map((m) => `${m} ${gained(best[m])} at ${num(best[m].rho)}`).join("; ") +
    `. Shown: ${here.method} at ${num(here.rho)}, ${points(here.tuned)} %.`,
  say: (state, { here, best }) => [
    [`error while tuning at ρ = ${num(here.rho)}`, `${points(here.tuned)} %`],
    ["ERM’s", `${points(ERM)} %`],
    ...METHODS.map((m) => [`${m} gains at ρ = ${num(best[m].rho)}`, gained(best[m])]),
  ],
};

export default mount(figure);
