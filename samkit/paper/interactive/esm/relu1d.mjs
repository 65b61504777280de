// One hidden layer of ReLUs on points in 1D, trained by full-batch SAM, as samkit.training.relu1d does.
//
// f(x) = sum_k a_k max(0, w_k x + b_k), L = half the sum of the squared residuals. A net is three
// arrays {w, b, a}. The points' x must rise: a unit is then active on all the points from one on,
// or on all before one, so sums over the points are differences of running sums, and a step costs
// units + points, not units * points.
//
// Equal to samkit's to 1e-9 for 10^4 steps. Much later a rounding error can decide on which side of a
// point a kink lies: of 16 trainings of 10^5 steps, 4 ended with weights 10^-5 to 10^-2 apart.

/** Whole numbers from 0 to 2^32 - 1, the same as the twin of the tests (a 32 bit mixing counter). */
export function randomBits(seed) {
  let state = Math.imul(seed + 1, 0x9e3779b9) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  };
}

/** The authors' start: w = +-2.5, b from N(0, 2.5^2), a from N(0, 4^2). */
export function start(hidden, seed) {
  const bits = randomBits(seed);
  const uniform = () => (bits() + 0.5) / 2 ** 32;
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const draw = (one) => Array.from({ length: hidden }, one);
  return {
    w: draw(() => (uniform() < 0.5 ? -2.5 : 2.5)),
    b: draw(() => 2.5 * normal()),
    a: draw(() => 4 * normal()),
  };
}

/** Half the sum of the squared residuals. */
export const loss = (net, x, y) =>
  values(net, x).reduce((total, f, i) => total + 0.5 * (f - y[i]) ** 2, 0);

/** Room for the units that are active on some point of a group, and for sums over its points. */
function workspace(hidden, n) {
  const made = { count: 0, unit: new Int32Array(hidden), split: new Int32Array(hidden) };
  for (const name of ["w", "b", "a", "gw", "gb", "ga"]) made[name] = new Float64Array(hidden);
  for (const name of ["slope", "height", "slopeBefore", "heightBefore", "r0", "r1"]) {
    made[name] = new Float64Array(n + 1);
  }
  return made;
}

/** The first point on the other side of a unit's kink: `s` moves to it between first and last. */
function cross(w, b, x, first, last, s) {
  if (w < 0) {
    while (s < last && w * x[s] + b > 0) s++;
    while (s > first && !(w * x[s - 1] + b > 0)) s--;
  } else {
    while (s < last && !(w * x[s] + b > 0)) s++;
    while (s > first && w * x[s - 1] + b > 0) s--;
  }
  return s;
}

/** The gradient gw, gb, ga of the units in `work` for the points first, ..., last - 1; their loss. */
function gradient(work, x, y, first, last) {
  const { count, split, w, b, a, gw, gb, ga } = work;
  const { slope, height, slopeBefore, heightBefore, r0, r1 } = work;
  for (let i = first; i <= last; i++) {
    slope[i] = height[i] = slopeBefore[i] = heightBefore[i] = 0;
  }
  for (let c = 0; c < count; c++) {
    const s = split[c];
    if (w[c] < 0) {
      slopeBefore[s] += a[c] * w[c];
      heightBefore[s] += a[c] * b[c];
    } else {
      slope[s] += a[c] * w[c];
      height[s] += a[c] * b[c];
    }
  }
  for (let i = last - 1; i >= first; i--) {
    slopeBefore[i] += slopeBefore[i + 1];
    heightBefore[i] += heightBefore[i + 1];
  }
  let total = 0;
  r0[first] = r1[first] = 0; // sums of r and of r x over the points before i
  for (let i = first; i < last; i++) {
    if (i > first) {
      slope[i] += slope[i - 1];
      height[i] += height[i - 1];
    }
    const f = (slope[i] + slopeBefore[i + 1]) * x[i] + height[i] + heightBefore[i + 1];
    const r = f - y[i];
    total += 0.5 * r * r;
    r0[i + 1] = r0[i] + r;
    r1[i + 1] = r1[i] + r * x[i];
  }
  for (let c = 0; c < count; c++) {
    const s = split[c];
    const sum0 = w[c] < 0 ? r0[s] : r0[last] - r0[s];
    const sum1 = w[c] < 0 ? r1[s] : r1[last] - r1[s];
    gw[c] = a[c] * sum1;
    gb[c] = a[c] * sum0;
    ga[c] = w[c] * sum1 + b[c] * sum0;
  }
  return total;
}

/**
 * A training that can be continued: advance(until) takes it to that step, or to where the loss is
 * at most `enough` or no longer a number (`ended`). Its `loss` is that of `net` at `step`; `losses`
 * has [step, loss] at steps that grow like powers of 1.1.
 */
export function trainer({ net, x, y, rho, m, stepSize, decay, steps, enough = 0 }) {
  const [n, hidden] = [x.length, net.w.length];
  const [w, b, a] = [net.w, net.b, net.a].map((row) => Float64Array.from(row));
  const [tw, tb, ta] = [w, b, a].map(() => new Float64Array(hidden));
  const work = workspace(hidden, n);
  const splits = []; // of each group, the units' splits of the last step, near which they are sought
  for (let first = 0; first < n; first += m) splits.push(new Int32Array(hidden).fill(first));
  const self = { net: { w, b, a }, step: 0, loss: loss(net, x, y), ended: false, losses: [] };
  let next = 0;

  /** One example by itself: each active unit has r (a x, a, h) for its gradient, h = w x + b. */
  function addSingle(xi, yi) {
    const { unit, w: h, a: ac } = work;
    let count = 0;
    let f = 0;
    let norm = 0; // squared, of the gradient without r
    for (let k = 0; k < hidden; k++) {
      const hk = w[k] * xi + b[k];
      if (!(hk > 0)) continue;
      unit[count] = k;
      h[count] = hk;
      ac[count] = a[k];
      f += a[k] * hk;
      norm += a[k] * a[k] * (xi * xi + 1) + hk * hk;
      count++;
    }
    let r = f - yi;
    const before = 0.5 * r * r;
    if (rho > 0 && r !== 0 && norm > 0) {
      const move = (Math.sign(r) * rho) / Math.sqrt(norm);
      f = 0;
      for (let c = 0; c < count; c++) {
        const moved = h[c] + move * ac[c] * (xi * xi + 1);
        ac[c] += move * h[c];
        h[c] = moved;
        if (moved > 0) f += ac[c] * moved;
      }
      r = f - yi;
    }
    for (let c = 0; c < count; c++) {
      if (!(h[c] > 0)) continue;
      const k = unit[c];
      tw[k] += r * ac[c] * xi;
      tb[k] += r * ac[c];
      ta[k] += r * h[c];
    }
    return before;
  }

  function samGradient() {
    tw.fill(0);
    tb.fill(0);
    ta.fill(0);
    let total = 0;
    if (m === 1) {
      for (let i = 0; i < n; i++) total += addSingle(x[i], y[i]);
      return total;
    }
    for (let group = 0; group < splits.length; group++) {
      const first = group * m;
      const last = Math.min(first + m, n);
      const near = splits[group];
      let count = 0;
      for (let k = 0; k < hidden; k++) {
        const s = cross(w[k], b[k], x, first, last, near[k]);
        near[k] = s;
        if (s === (w[k] < 0 ? first : last)) continue; // active nowhere: its gradient is 0
        work.unit[count] = k;
        work.split[count] = s;
        work.w[count] = w[k];
        work.b[count] = b[k];
        work.a[count] = a[k];
        count++;
      }
      work.count = count;
      total += gradient(work, x, y, first, last);
      const { gw, gb, ga } = work;
      let squares = 0;
      for (let c = 0; c < count; c++) squares += gw[c] * gw[c] + gb[c] * gb[c] + ga[c] * ga[c];
      if (rho > 0 && squares > 0) {
        const scale = rho / Math.sqrt(squares);
        for (let c = 0; c < count; c++) {
          work.w[c] += scale * gw[c];
          work.b[c] += scale * gb[c];
          work.a[c] += scale * ga[c];
          work.split[c] = cross(work.w[c], work.b[c], x, first, last, work.split[c]);
        }
        gradient(work, x, y, first, last);
      }
      for (let c = 0; c < count; c++) {
        const k = work.unit[c];
        tw[k] += gw[c];
        tb[k] += gb[c];
        ta[k] += ga[c];
      }
    }
    return total;
  }

  self.advance = (until) => {
    while (self.step < Math.min(until, steps) && !self.ended) {
      self.loss = samGradient();
      if (self.step >= next) {
        self.losses.push([self.step, self.loss]);
        next = Math.max(self.step + 1, Math.floor(1.1 * self.step));
      }
      if (self.loss <= enough || !Number.isFinite(self.loss)) {
        self.ended = true;
        break;
      }
      const rate = decay ? stepSize * (1 - self.step / steps) : stepSize;
      for (let k = 0; k < hidden; k++) {
        w[k] -= rate * tw[k];
        b[k] -= rate * tb[k];
        a[k] -= rate * ta[k];
      }
      self.step++;
    }
    self.loss = loss(self.net, x, y);
    return self;
  };
  return self;
}

/** samkit.training.relu1d.train: {net, loss, step}. */
export function train(given) {
  const { net, loss: last, step } = trainer(given).advance(given.steps);
  return { net: { w: [...net.w], b: [...net.b], a: [...net.a] }, loss: last, step };
}

// How complicated the learned function is

/** f at each of the x. */
export const values = ({ w, b, a }, x) =>
  x.map((at) => {
    let f = 0;
    for (let k = 0; k < w.length; k++) f += a[k] * Math.max(0, w[k] * at + b[k]);
    return f;
  });

/** The kinks in (low, high) in order as {at, change}: where, and by how much the slope jumps. */
export function slopeChanges({ w, b, a }, low, high) {
  const found = [];
  for (let k = 0; k < w.length; k++) {
    const at = -b[k] / w[k];
    if (w[k] !== 0 && at > low && at < high) found.push({ at, change: a[k] * Math.abs(w[k]) });
  }
  return found.sort((p, q) => p.at - q.at);
}

/**
 * The middles of the parts of [low, high], a hundred, in which the eye can see a kink: the jumps of
 * the slope in a part, added up, are more than `share` of the sum of all the parts' sizes.
 */
export function kinks(net, low, high, bins = 100, share = 0.01) {
  const sums = new Array(bins).fill(0);
  const edge = (k) => low + (k * (high - low)) / bins;
  for (const { at, change } of slopeChanges(net, low, high)) {
    let k = Math.min(bins - 1, Math.floor(((at - low) / (high - low)) * bins));
    if (at < edge(k)) k--;
    else if (k < bins - 1 && at >= edge(k + 1)) k++;
    sums[k] += change;
  }
  const all = sums.reduce((total, sum) => total + Math.abs(sum), 0);
  return sums.flatMap((sum, k) => (Math.abs(sum) > share * all ? [edge(k + 0.5)] : []));
}

/** The sum of |a_k| |w_k|. */
export const pathNorm = ({ w, a }) => w.reduce((sum, wk, k) => sum + Math.abs(a[k] * wk), 0);
