// numpy.random.RandomState: the Mersenne twister and its normal numbers by the polar method.
//
// Words and uniform numbers are numpy's to the last bit. A normal number takes a logarithm, which
// is not rounded alike everywhere: browsers, and C libraries under numpy, differ in its last bit.

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
    const f = Math.sqrt((-2 * Math.log(square)) / square);
    second = f * x;
    return f * y;
  };
  return { uniform, normal };
}

/** `count` numbers of one kind, "uniform" or "normal". */
export function draws(seed, kind, count) {
  const generator = randomState(seed);
  return Float64Array.from({ length: count }, generator[kind]);
}
