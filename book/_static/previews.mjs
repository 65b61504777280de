// What a link leads to, seen without going there: theorems, equations, rows of the ledger, works.
// Opens on hover and on focus, stays while the pointer is on it or the link has the focus, closes on
// Escape (WCAG 1.4.13).
const WAIT = 250; // ms
const KINDS = ".proof, .math-wrapper, div.math, details.row, .citation, dd, dt";
const pages = new Map([[location.pathname, Promise.resolve(document)]]);

function pageOf(url) {
  if (!pages.has(url.pathname)) {
    const got = fetch(url.pathname)
      .then((answer) => (answer.ok ? answer.text() : Promise.reject(answer.status)))
      .then((text) => new DOMParser().parseFromString(text, "text/html"));
    pages.set(url.pathname, got);
  }
  return pages.get(url.pathname);
}

/** What stands at the place a link leads to, as a copy; undefined where there is nothing to show. */
async function found(link) {
  const url = new URL(link.href);
  if (url.origin !== location.origin || url.hash.length < 2) return undefined;
  const page = await pageOf(url);
  let place = page.getElementById(decodeURIComponent(url.hash.slice(1)));
  if (place?.matches("span[id]:empty")) place = place.nextElementSibling ?? place;
  place = place?.closest(KINDS);
  if (!place) return undefined;
  let copy = place.cloneNode(true);
  if (place.matches("dt")) {
    const words = place.nextElementSibling?.cloneNode(true);
    copy = document.createElement("div");
    copy.append(...(words ? [words] : []));
  }
  if (copy.matches("details")) copy.open = true;
  for (const part of [copy, ...copy.querySelectorAll("[id]")]) part.removeAttribute("id");
  for (const part of copy.querySelectorAll(".headerlink, script, .MathJax_Preview")) part.remove();
  return copy;
}

let open; // {link, box}
let waiting;

function close() {
  clearTimeout(waiting);
  open?.link.removeAttribute("aria-describedby");
  open?.box.remove();
  open = undefined;
}

async function show(link) {
  if (open?.link === link) return;
  const copy = await found(link).catch(() => undefined);
  if (!copy || !(link.matches(":hover") || link === document.activeElement)) return;
  close();
  const box = document.createElement("div");
  box.className = "preview";
  box.id = "preview";
  box.setAttribute("role", "tooltip");
  box.append(copy);
  document.querySelector("article").append(box);
  if (globalThis.MathJax?.typesetPromise) await MathJax.typesetPromise([box]).catch(() => {});
  const at = link.getBoundingClientRect();
  const width = Math.min(560, innerWidth - 24);
  box.style.width = `${width}px`;
  box.style.left = `${Math.max(12, Math.min(at.left, innerWidth - width - 12))}px`;
  const below = innerHeight - at.bottom > box.offsetHeight + 12 || at.top < box.offsetHeight + 12;
  box.style.top = `${below ? at.bottom + 6 : at.top - box.offsetHeight - 6}px`;
  link.setAttribute("aria-describedby", "preview");
  open = { link, box };
}

const soon = (action) => {
  clearTimeout(waiting);
  waiting = setTimeout(action, WAIT);
};
// a page that scrolls under a resting pointer sends events of it too
const focused = (link) => link.matches(":focus-visible");
const linkOf = (event) => event.target.closest?.("article a[href*='#']:not(.headerlink)");
document.addEventListener("pointerover", (event) => {
  const link = linkOf(event);
  if (link && event.pointerType === "mouse") soon(() => show(link));
  else if (open && !event.target.closest(".preview") && !focused(open.link)) soon(close);
  else if (open) clearTimeout(waiting);
});
document.addEventListener("focusin", (event) => {
  const link = linkOf(event);
  if (link && focused(link)) soon(() => show(link));
  else if (!event.target.closest(".preview")) close();
});
document.addEventListener("focusout", (event) =>
  event.target === open?.link && !open.box.matches(":hover") && soon(close));
document.addEventListener("keydown", (event) => event.key === "Escape" && close());
addEventListener("scroll", () => open && !open.box.matches(":hover") && close(), { passive: true });
