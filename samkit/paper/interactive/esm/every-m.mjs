// Sparse regression trained by ERM and by m-SAM for several m, groups redrawn at every step.
import { sample, testLoss, training } from "./diagonal.mjs";
import { finish } from "./slices.mjs";

export const N = 20;
export const D = 30;
export const SPARSITY = 3;
export const STOPS = [20, 10, 5, 4, 2, 1];
const STEPS = 10001; // as the authors' notebook
const STEP_SIZE = 1 / 6;

/**
 * {set, erm, runs}: the data, and of each run m, beta, its test loss, its l1 norm, and by how much
 * the flow of m-SAM shrinks log alpha in each coordinate, `lost`. In slices, for the page.
 */
export function* everyM({ seed, init, rho, groups = 0 }) {
  const set = sample({ n: N, d: D, sparsity: SPARSITY, seed });
  const start = { u: new Float64Array(D).fill(init), v: new Float64Array(D) };
  const trained = function* (radius, m) {
    const common = { stepSize: STEP_SIZE, steps: STEPS, at: [], regroup: groups };
    const { u, v, byFlow } = yield* training({ ...set, ...start, ...common, rho: radius, m });
    const beta = u.map((value, j) => value * v[j]);
    const l1 = beta.reduce((total, value) => total + Math.abs(value), 0);
    return { m, beta, l1, test: testLoss(set, u, v), lost: byFlow };
  };
  const erm = yield* trained(0, N);
  const runs = [];
  for (const m of STOPS) runs.push(yield* trained(rho, m));
  return { set, erm, runs };
}

/** The same without a pause. */
export const found = (given) => finish(everyM(given));
