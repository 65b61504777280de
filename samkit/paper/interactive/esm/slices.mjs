// Long computations in slices: generators that yield now and then, and return the result.

/** The result, without a pause. */
export function finish(slices) {
  let next;
  do next = slices.next();
  while (!next.done);
  return next.value;
}
