// Puts the interactive figures of a static page in place of their pictures.
for (const el of document.querySelectorAll("[data-samkit-figure]")) {
  import(`./${el.dataset.samkitFigure}.mjs`).then(
    (module) => {
      module.default.render({ el });
      el.dataset.mounted = "";
    },
    (error) => console.error(`figure ${el.dataset.samkitFigure}:`, error),
  );
}
