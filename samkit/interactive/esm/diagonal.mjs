// The diagonal linear network beta = u * v with m-SAM, as samkit.diagonal trains it.

/**
 * `steps` steps of unnormalized m-SAM on l_i = r_i^2 / 2, groups of m consecutive rows.
 * X is an array of n rows, u and v of d numbers; `each(step, u, v)` sees steps 0, every, 2 every, ...
 * and the last. Returns {u, v}. `broken` changes the rule: see `RULES`.
 */
export function train({ X, y, u, v, rho, m, stepSize, steps, every = 1, each, broken = "none" }) {
  const [n, d] = [X.length, u.length];
  const rows = X.map((row) => Float64Array.from(row));
  [u, v] = [Float64Array.from(u), Float64Array.from(v)];
  const rule = RULES[broken];
  const [a, curve, A, B] = [0, 0, 0, 0].map(() => new Float64Array(d));
  const [beta, s, r, groupA] = [d, d, n, d].map((size) => new Float64Array(size));
  for (let step = 0; step <= steps; step++) {
    if (each && (step % every === 0 || step === steps)) each(step, u, v);
    if (step === steps) break;
    for (let j = 0; j < d; j++) {
      beta[j] = u[j] * v[j];
      s[j] = u[j] * u[j] + v[j] * v[j];
    }
    A.fill(0);
    B.fill(0);
    for (let first = 0; first < n; first += m) {
      const last = Math.min(first + m, n);
      a.fill(0);
      groupA.fill(0);
      for (let k = first; k < last; k++) {
        const x = rows[k];
        let value = -y[k];
        for (let j = 0; j < d; j++) value += x[j] * beta[j];
        r[k] = value;
        const weight = (value * rho) / (last - first);
        for (let j = 0; j < d; j++) a[j] += weight * x[j];
      }
      rule.ascent(a, rho, u, v);
      for (let j = 0; j < d; j++) curve[j] = a[j] * (a[j] * beta[j] + s[j]);
      for (let k = first; k < last; k++) {
        const x = rows[k];
        let value = r[k];
        for (let j = 0; j < d; j++) value += x[j] * curve[j];
        for (let j = 0; j < d; j++) groupA[j] += value * x[j];
      }
      for (let j = 0; j < d; j++) {
        A[j] += groupA[j];
        B[j] += groupA[j] * a[j];
      }
    }
    rule.descent(A, B, u, v, stepSize / n);
  }
  return { u, v };
}

const plainDescent = (A, B, u, v, scale) => {
  for (let j = 0; j < u.length; j++) {
    const [uj, vj] = [u[j], v[j]];
    u[j] = uj - scale * (A[j] * vj + B[j] * uj);
    v[j] = vj - scale * (A[j] * uj + B[j] * vj);
  }
};

/** The rule as it is, and three ways to break it. */
export const RULES = {
  none: { ascent: () => {}, descent: plainDescent },
  "ascent downhill": {
    ascent: (a) => {
      for (let j = 0; j < a.length; j++) a[j] = -a[j];
    },
    descent: plainDescent,
  },
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
