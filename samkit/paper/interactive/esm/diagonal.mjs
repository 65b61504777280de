// The diagonal linear network beta = u * v with m-SAM, as samkit.diagonal trains it.
import { draws, randomState } from "./numpy-legacy.mjs";
import { finish } from "./slices.mjs";

/**
 * samkit's SparseRegression.sample: {X, y, beta}, and `spread`, X_test' X_test / 1000, of which
 * the test loss is a quadratic form: see `testLoss`.
 */
export function sample({ n, d, sparsity, seed }) {
  const tests = 1000;
  const numbers = draws(seed, "normal", (n + tests + 1) * d);
  const rows = (first, last) =>
    Array.from({ length: last - first }, (_, i) => numbers.subarray((first + i) * d, (first + i + 1) * d));
  const X = rows(0, n);
  const [all] = rows(n + tests, n + tests + 1);
  const beta = all.map((value, j) => (j < sparsity ? Math.abs(value) : 0));
  const length = Math.sqrt(dot(beta, beta));
  for (let j = 0; j < sparsity; j++) beta[j] /= length;
  const spread = new Float64Array(d * d);
  for (const x of rows(n, n + tests)) {
    for (let j = 0; j < d; j++) {
      const share = x[j] / tests;
      for (let k = 0; k < d; k++) spread[j * d + k] += share * x[k];
    }
  }
  return { X, y: Float64Array.from(X, (x) => dot(x, beta)), beta, spread };
}

export function dot(a, b) {
  let total = 0;
  for (let j = 0; j < a.length; j++) total += a[j] * b[j];
  return total;
}

/** The mean of r^2 / 2 on the test examples of `sample`. */
export function testLoss({ beta, spread }, u, v) {
  const d = u.length;
  const off = beta.map((value, j) => u[j] * v[j] - value);
  let total = 0;
  for (let j = 0; j < d; j++) total += off[j] * dot(spread.subarray(j * d, (j + 1) * d), off);
  return total / 2;
}

/**
 * `steps` steps of unnormalized m-SAM on l_i = r_i^2 / 2, groups of m consecutive rows; with
 * `regroup`, a seed, of rows in an order that is drawn anew at every step. X is an array of n rows, u and v of d numbers. `each(step, u, v)` sees the steps in `at`, in
 * order, or else 0, every, 2 every, ... and the last. `broken` changes the rule: see `RULES`. Ends
 * where a seen u or v is no longer finite. Returns {u, v, byFlow, bySteps}. A step multiplies
 * u + v and u - v by 1 -+ a - b, with a, b = stepSize A, B; so u^2 - v^2 = 2 alpha^2, where
 * log alpha has lost `byFlow`, the sum of b, and `bySteps`, that of (a^2 + b^2) / 2, which vanishes
 * with the step size, and terms of third order.
 */
export const train = (given) => finish(training(given));

/** The same in slices, for the page. */
export function* training({ X, y, u, v, rho, m, stepSize, steps, every = 1, at, each, broken = "as it is", regroup }) {
  const [n, d] = [X.length, u.length];
  const flat = Float64Array.from({ length: n * d }, (_, k) => X[Math.floor(k / d)][k % d]);
  y = Float64Array.from(y);
  // alone or all together, the order is nothing to them
  const shuffle = regroup !== undefined && m > 1 && m < n ? shuffler(regroup, flat, y) : () => {};
  [u, v] = [Float64Array.from(u), Float64Array.from(v)];
  const [A, B, byFlow, bySteps, beta, s] = Array.from({ length: 6 }, () => new Float64Array(d));
  const rule = RULES[broken];
  const gather = (m === 1 ? singles : groups)(flat, y, n, d, rho, m, rule.factor);
  const lead = rule.leaves ? 1 / stepSize : 0;
  let next = 0;
  for (let step = 0; step <= steps; step++) {
    if (at ? step === at[next] : step % every === 0 || step === steps) {
      each?.(step, u, v);
      next++;
      if (!Number.isFinite(dot(u, u) + dot(v, v))) break;
    }
    if (step === steps) break;
    if (step % 250 === 249) yield;
    for (let j = 0; j < d; j++) {
      beta[j] = u[j] * v[j];
      s[j] = u[j] * u[j] + v[j] * v[j];
    }
    A.fill(0);
    B.fill(0);
    shuffle();
    gather(beta, s, A, B, lead);
    const scale = stepSize / n;
    for (let j = 0; j < d; j++) {
      const [uj, vj, a, b] = [u[j], v[j], scale * A[j], scale * B[j]];
      u[j] = uj - (a * vj + b * uj);
      v[j] = vj - (a * uj + b * vj);
      byFlow[j] += b;
      bySteps[j] += (a * a + b * b) / 2;
    }
  }
  return { u, v, byFlow, bySteps };
}

/** Puts rows of numbers, and y with them, in a random order, each time it is called (Fisher, Yates). */
function shuffler(seed, flat, y) {
  const [n, d] = [y.length, flat.length / y.length];
  const { uniform } = randomState(seed);
  const row = new Float64Array(d);
  return () => {
    for (let k = n - 1; k > 0; k--) {
      const j = Math.floor(uniform() * (k + 1));
      row.set(flat.subarray(k * d, (k + 1) * d));
      flat.copyWithin(k * d, j * d, (j + 1) * d);
      flat.set(row, j * d);
      [y[k], y[j]] = [y[j], y[k]];
    }
  };
}

// Adds up A and B (n times those of the theory) over groups. A group's ascent moves (u, v) by
// (a * v, a * u), its beta by a (a beta + s), with s = u^2 + v^2.
function groups(flat, y, n, d, rho, m, factor) {
  const [a, curve, groupA] = [0, 0, 0].map(() => new Float64Array(d));
  const r = new Float64Array(n);
  return (beta, s, A, B, lead) => {
    for (let first = 0; first < n; first += m) {
      const last = Math.min(first + m, n);
      const size = last - first;
      a.fill(0);
      for (let k = first, row = first * d; k < last; k++, row += d) {
        let value = -y[k];
        for (let j = 0; j < d; j++) value += flat[row + j] * beta[j];
        r[k] = value;
        for (let j = 0; j < d; j++) a[j] += value * flat[row + j];
      }
      if (rho === 0) {
        for (let j = 0; j < d; j++) A[j] += a[j];
        continue;
      }
      let square = 0; // of the length of the group's gradient in (u, v)
      for (let j = 0; j < d; j++) {
        a[j] /= size;
        square += a[j] * a[j] * s[j];
      }
      const length = factor(rho, square);
      for (let j = 0; j < d; j++) {
        a[j] *= length;
        curve[j] = a[j] * (a[j] * beta[j] + s[j]);
      }
      groupA.fill(0);
      for (let k = first, row = first * d; k < last; k++, row += d) {
        let value = r[k];
        for (let j = 0; j < d; j++) value += flat[row + j] * curve[j];
        for (let j = 0; j < d; j++) groupA[j] += value * flat[row + j];
      }
      for (let j = 0; j < d; j++) {
        A[j] += groupA[j] - lead * size * a[j];
        B[j] += groupA[j] * a[j];
      }
    }
  };
}

// The same for groups of one, several times faster: a is a multiple of x, so that the residual at
// the perturbed point is a polynomial in that multiple.
function singles(flat, y, n, d, rho, m, factor) {
  return (beta, s, A, B, lead) => {
    for (let k = 0, row = 0; k < n; k++, row += d) {
      let [r, linear, quadratic] = [-y[k], 0, 0];
      for (let j = 0; j < d; j++) {
        const x = flat[row + j];
        const xBeta = x * beta[j];
        const xx = x * x;
        r += xBeta;
        linear += xx * s[j];
        quadratic += xx * xBeta;
      }
      const multiple = factor(rho, r * r * linear) * r;
      const perturbed = r + multiple * (linear + multiple * quadratic);
      const pull = perturbed - lead * multiple;
      const both = perturbed * multiple;
      for (let j = 0; j < d; j++) {
        const x = flat[row + j];
        A[j] += pull * x;
        B[j] += both * x * x;
      }
    }
  };
}

/**
 * The rule as it is, and three ways to break it. A group's ascent is its gradient, of squared
 * length `square`, times `factor(rho, square)`. With `leaves` the step then starts from the mean of
 * the perturbed points, and not from (u, v).
 */
export const RULES = {
  "as it is": { factor: (rho) => rho },
  "ascent downhill": { factor: (rho) => -rho },
  "normalized ascent": { factor: (rho, square) => (square > 0 ? rho / Math.sqrt(square) : 0) },
  "step from the perturbed point": { factor: (rho) => rho, leaves: true },
};

/** Losses r_i^2 / 2, averaged. */
export function loss(X, y, u, v) {
  let total = 0;
  for (let i = 0; i < X.length; i++) {
    let r = -y[i];
    for (let j = 0; j < u.length; j++) r += X[i][j] * u[j] * v[j];
    total += (r * r) / 2;
  }
  return total / X.length;
}
