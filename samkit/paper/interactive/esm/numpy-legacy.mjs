// numpy.random.RandomState: the Mersenne twister and its normal numbers by the polar method.
//
// Words and uniform numbers are numpy's to the last bit. A normal number takes a logarithm, whose
// last bit differs among browsers, and among the C libraries under numpy. Here it is rounded
// correctly, so that every browser draws the same numbers: those of numpy, but for one in some
// thousands that a C library rounds the other way.

const [SIZE, SHIFT] = [624, 397];

/** The legacy generator with a whole seed, 0 to 2^32 - 1: uniform() in [0, 1), normal(). */
export function randomState(seed) {
  const words = new Int32Array(SIZE);
  words[0] = seed;
  for (let k = 1; k < SIZE; k++) {
    words[k] = Math.imul(1812433253, words[k - 1] ^ (words[k - 1] >>> 30)) + k;
  }
  let at = SIZE;
  const word = () => {
    if (at === SIZE) {
      for (let k = 0; k < SIZE; k++) {
        const bits = (words[k] & 0x80000000) | (words[(k + 1) % SIZE] & 0x7fffffff);
        words[k] = words[(k + SHIFT) % SIZE] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let z = words[at++];
    z ^= z >>> 11;
    z ^= (z << 7) & 0x9d2c5680;
    z ^= (z << 15) & 0xefc60000;
    return z ^ (z >>> 18);
  };
  const uniform = () => {
    const high = word() >>> 5; // 53 bits from two words: 27 and 26
    return (high * 2 ** 26 + (word() >>> 6)) / 2 ** 53;
  };
  let second; // the method makes two at a time
  const normal = () => {
    if (second !== undefined) {
      const kept = second;
      second = undefined;
      return kept;
    }
    let x, y, square;
    do {
      x = 2 * uniform() - 1;
      y = 2 * uniform() - 1;
      square = x * x + y * y;
    } while (square >= 1 || square === 0);
    const f = Math.sqrt((-2 * log(square)) / square);
    second = f * x;
    return f * y;
  };
  return { uniform, normal };
}

// Numbers as unevaluated sums [high, low] of two doubles, about 106 bits.

function add([a, b], [c, d]) {
  const high = a + c;
  const part = high - a;
  const low = a - (high - part) + (c - part) + b + d;
  const sum = high + low;
  return [sum, low - (sum - high)];
}

/** The product of two doubles: by halves of 26 bits, whose products are exact. */
function product(a, b) {
  const high = a * b;
  const [a1, b1] = [a, b].map((x) => x * 134217729 - (x * 134217729 - x));
  const [a2, b2] = [a - a1, b - b1];
  return [high, a1 * b1 - high + a1 * b2 + a2 * b1 + a2 * b2];
}

/** log(a / b) for nearby a, b with exact a - b: twice artanh of (a - b) / (a + b), a series. */
function logRatio(a, b) {
  const below = add([a, 0], [b, 0]);
  const first = (a - b) / below[0];
  const [high, low] = product(first, below[0]);
  const rest = (a - b - high - low - first * below[1]) / below[0];
  const square = first * first;
  let tail = 0;
  for (let k = 15; k >= 3; k -= 2) tail = square * (1 / k + tail);
  return add([2 * first, 0], [2 * rest, 0]).map((x, part) => (part ? x + 2 * first * tail : x));
}

// log(k / 64) up to 90 / 64 and down to 45 / 64, each from its neighbour; log 2 from the ends.
const LOGS = new Map([[64, [0, 0]]]);
for (let k = 65; k <= 90; k++) LOGS.set(k, add(LOGS.get(k - 1), logRatio(k, k - 1)));
for (let k = 63; k >= 45; k--) LOGS.set(k, add(LOGS.get(k + 1), logRatio(k, k + 1)));
const LOG_2 = add(LOGS.get(90), LOGS.get(45).map((x) => -x));

/** The natural logarithm of a positive, normal number, rounded correctly. */
export function log(x) {
  let exponent = 0;
  for (; x < 0.703125; exponent--) x *= 2; // to between 45 / 64 and 90 / 64
  for (; x >= 1.40625; exponent++) x /= 2;
  const near = Math.round(64 * x);
  const [high, low] = product(exponent, LOG_2[0]);
  const whole = add([high, low + exponent * LOG_2[1]], LOGS.get(near));
  return add(whole, logRatio(x, near / 64))[0];
}

/** `count` numbers of one kind, "uniform" or "normal". */
export function draws(seed, kind, count) {
  const generator = randomState(seed);
  return Float64Array.from({ length: count }, generator[kind]);
}
