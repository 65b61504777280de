// Filters above the rows of the ledger. Without this script the page is the plain list of them.
const ledger = document.querySelector(".ledger");
const rows = [...(ledger?.querySelectorAll("details.row") ?? [])];

const FILTERS = [
  ["verdict", "Verdict"],
  ["chapter", "Chapter"],
  ["place", "In the paper"],
  ["evidence", "Evidence"],
  ["by", "Whose"],
];

function element(name, given = {}, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function bar() {
  const form = element("form", { class: "ledger-filters", role: "search", "aria-label": "Rows of the ledger" });
  const selects = FILTERS.map(([name, label]) => {
    const select = element("select", { name });
    const counts = new Map();
    for (const row of rows) counts.set(row.dataset[name], (counts.get(row.dataset[name]) ?? 0) + 1);
    select.append(element("option", { value: "" }, "all"));
    for (const value of [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }))) {
      select.append(element("option", { value }, `${value} (${counts.get(value)})`));
    }
    const box = element("label", {}, label);
    box.append(select);
    form.append(box);
    return select;
  });
  const words = element("input", { type: "search", name: "words" });
  const box = element("label", {}, "Words");
  box.append(words);
  const shown = element("output", { "aria-live": "polite" });
  form.append(box, element("button", { type: "reset" }, "Show all"), shown);

  function filter() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(
        selects.every((select) => !select.value || row.dataset[select.name] === select.value) &&
        wanted.every((word) => text.includes(word))
      );
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows.length} rows`;
    const address = new URL(location.href);
    for (const part of [...selects, words]) {
      if (part.value) address.searchParams.set(part.name, part.value);
      else address.searchParams.delete(part.name);
    }
    if (address.href !== location.href) history.replaceState(history.state, "", address);
  }
  const given = new URLSearchParams(location.search);
  for (const part of [...selects, words]) {
    part.value = given.get(part.name) ?? "";
    if (part.selectedIndex === -1) part.value = "";
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  ledger.before(form);
  filter();
  // a link to a row that is filtered away shows it
  addEventListener("hashchange", () => {
    const row = document.getElementById(location.hash.slice(1));
    if (row?.hidden) row.hidden = false;
  });
}

if (rows.length) bar();
