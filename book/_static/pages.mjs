// What folds unfolds: for a link that leads into it, and on paper, in the light scheme.

/** Opens what hides the place that the address names, and goes there. */
function reveal() {
  const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!place) return;
  let hidden = false;
  for (let fold = place.closest("details"); fold; fold = fold.parentElement.closest("details")) {
    hidden ||= !fold.open;
    fold.open = true;
  }
  if (hidden) place.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();

let closed = [];
let theme;

// Before the pages are counted: what unfolds later is cut off.
addEventListener("beforeprint", () => {
  theme ??= document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  const folds = [...document.querySelectorAll("article details:not([open])")];
  for (const details of folds) details.open = true;
  closed.push(...folds);
});
addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = theme;
  theme = undefined;
  for (const details of closed) details.open = false;
  closed = [];
});
