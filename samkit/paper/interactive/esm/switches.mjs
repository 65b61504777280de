// Recorded runs: what is lost of SAM's gain when one of its parts is switched off.
import { COLORS, axes, clamp, label, mount, path, tag } from "./kit.mjs";
import { runs } from "./switches-data.mjs";

const [SAM, ...SWITCHES] = runs;
const MARGIN = 0.01; // what is less does not count
const SEEDS = { "ten seeds": "ten", "sixty new seeds": "sixty" };
const EXPECTED = { lost: "that the gain is lost", "as good": "that it is as good", "no better": "that it is no better" };
const WHAT = {
  unnormalized: "Without the division by the gradient’s length",
  "3 ascent steps": "With three steps uphill in place of one",
  "10 ascent steps": "With ten steps uphill in place of one",
  softplus: "With a smooth activation in place of ReLU",
  "previous batch": "With the gradient of the previous batch",
  "independent batch": "With the gradient of a batch drawn on its own",
  "step size only": "With the length of SAM’s steps but not their direction",
};

/** What the interval [low, high] of a change of the gain says, beside the margin. */
export function verdict([low, high]) {
  if (low > -MARGIN && high < MARGIN) return "no difference that counts";
  if (high < -MARGIN) return "a loss that counts";
  if (low > MARGIN) return "a gain that counts";
  if (high < 0) return "a loss, and it is open whether it counts";
  if (low > 0) return "a gain, and it is open whether it counts";
  return "not decided";
}

/** Of every switch the interval of its change, by the seeds asked for where they were run. */
export function compute({ at, seeds }) {
  const shown = SWITCHES.map((one) => {
    const many = SEEDS[seeds] in one ? SEEDS[seeds] : "ten";
    return { ...one, many, change: one[many], verdict: verdict(one[many]) };
  });
  return { shown, here: shown[at] };
}

const points = (x) => (100 * x).toFixed(1).replace(/^-0.0$/, "0.0").replace("-", "−");
const words = ([low, high]) => `${points((low + high) / 2)} ± ${points((high - low) / 2)} points`;
const colorOf = (name) => COLORS[name.endsWith("batch") ? "n-SAM" : name === "step size only" ? "ERM" : "m-SAM"];
const ROW = 32;
const layout = (width) => ({ left: 124, top: 34, right: width - 16, bottom: 34 + ROW * SWITCHES.length });

const figure = {
  name: "switches",
  title: "With another batch’s gradient a part of the gain is lost, without SAM’s direction all of it",
  controls: [
    { name: "at", label: "what is switched", kind: "range", stops: SWITCHES.map((_, k) => k), value: 4, show: (k) => SWITCHES[k].switch },
    { name: "seeds", label: "judged by", kind: "choice", options: Object.keys(SEEDS), value: "ten seeds" },
  ],
  main: ["at", "seeds"],
  presets: [
    { label: "Another batch", state: {} },
    { label: "Step size only", state: { at: 6 } },
    { label: "No division, ten seeds", state: { at: 0 } },
    { label: "No division, sixty seeds", state: { at: 0, seeds: "sixty new seeds" } },
  ],
  compute,
  accent: (state) => colorOf(SWITCHES[state.at].switch),
  drag: {
    at: (state, px, py, result, width) => ({ at: clamp(Math.floor((py - layout(width).top) / ROW), 0, SWITCHES.length - 1) }),
  },
  draw(state, { shown }, width) {
    const box = layout(width);
    const plane = axes(
      box,
      { range: [-6.3, 1.5], ticks: [-6, -4, -2, 0], label: "change of SAM’s gain, points" },
      { range: [0, SWITCHES.length], ticks: [] },
    );
    const x = (share) => plane.x(100 * share);
    const upright = (at, given) => path([[x(at), box.top], [x(at), box.bottom]], given);
    let body = tag("rect", { x: x(-MARGIN), y: box.top, width: x(MARGIN) - x(-MARGIN), height: box.bottom - box.top, fill: "currentColor", "fill-opacity": 0.1 });
    body += plane.body + upright(0, { stroke: COLORS["m-SAM"] }) + upright(-SAM.gain, { stroke: COLORS.ERM, "stroke-width": 4 });
    body += label(x(0), box.top - 8, "SAM", { "text-anchor": "middle", "font-size": 12 });
    body += label(x(-SAM.gain), box.top - 8, "ERM", { "text-anchor": "middle", "font-size": 12 });
    shown.forEach(({ switch: name, change }, k) => {
      const now = k === state.at;
      const [y, fill, opacity] = [box.top + ROW * (k + 0.5), colorOf(name), now ? 1 : 0.75];
      const [cx, ends] = [x((change[0] + change[1]) / 2), change.map((end) => [x(end), y])];
      let bar = path(ends, { stroke: fill, "stroke-width": now ? 4 : 2.5, "stroke-opacity": opacity });
      bar += tag("circle", { cx, cy: y, r: 5, fill, "fill-opacity": opacity });
      if (now) {
        bar += tag("circle", { cx, cy: y, r: 10, fill: "none", stroke: "currentColor", "stroke-width": 2 });
        bar = tag("g", { "data-drag": "at" }, tag("circle", { cx, cy: y, r: 16, fill: "transparent" }) + bar);
      }
      body += bar + label(box.left - 8, y + 4, name, { "text-anchor": "end", "font-size": 12, "font-weight": now ? "bold" : "" });
    });
    return { height: box.bottom + 44, body };
  },
  tell: (state, { here }) => {
    const left = here.gain > 0 ? `${points(here.gain)} points of gain over plain training are left of ${points(SAM.gain)}` : `the error is ${points(-here.gain)} points above plain training’s`;
    return (
      `${WHAT[here.switch]} the gain changes by ${words(here.change)}, by ${here.many} seeds: ${here.verdict}. ` +
      `By the first ten seeds ${left}. The paper lets one expect ${EXPECTED[here.expected]}.`
    );
  },
  alt: (state, { shown, here }) =>
    `Change of SAM’s gain in test error for seven switches, with 95 % intervals, beside a margin of one point: ` +
    shown.map((one) => `${one.switch} ${words(one.change)}`).join("; ") + `. Shown: ${here.switch}.`,
  say: (state, { shown, here }) => [
    ["what is switched", here.switch],
    ["gain over ERM, ten seeds", `${points(here.gain)} of ${points(SAM.gain)} points`],
    ...shown.map((one) => [`${one.switch}, ${one.many} seeds`, `${words(one.change)}: ${one.verdict}`]),
  ],
};

export default mount(figure);
