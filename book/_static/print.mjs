// A page on paper: in the light scheme, and with everything unfolded that a click would unfold.
const paper = matchMedia("print");
let closed = [];
let theme;

function prepare() {
  if (paper.matches) {
    theme = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    closed = [...document.querySelectorAll("article details:not([open])")];
    for (const details of closed) details.open = true;
  } else {
    document.documentElement.dataset.theme = theme;
    for (const details of closed) details.open = false;
  }
}

paper.addEventListener("change", prepare);
