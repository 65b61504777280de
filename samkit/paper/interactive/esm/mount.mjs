// Puts the interactive figures of a static page in place of their pictures, before the formulas are
// set. A figure may be taller than its picture, so a link to a place on the page is followed again.
const figures = [...document.querySelectorAll("[data-samkit-figure]")].map((el) =>
  import(`./${el.dataset.samkitFigure}.mjs`).then(
    (module) => {
      module.default.render({ el });
      el.dataset.mounted = "";
    },
    (error) => console.error(`figure ${el.dataset.samkitFigure}:`, error),
  ),
);

let moved = false; // the reader has begun to
for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) {
  addEventListener(kind, () => (moved = true), { once: true, passive: true });
}
function land() {
  if (!moved && location.hash) {
    document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  }
}
Promise.all(figures)
  .then(land)
  .then(() => window.MathJax?.startup?.promise)
  .then(land);
