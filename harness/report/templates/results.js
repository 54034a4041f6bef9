"use strict";
// Sorts and filters the table of systems. Without this script the whole table is shown, the fastest system first.
const table = document.getElementById("systems");
const body = table.tBodies[0];
const bar = document.getElementById("filters");
const rows = [...body.rows];
const chosen = {};

function value(cell) {
  const found = Number(cell.textContent.replaceAll(",", ""));
  return cell.textContent.trim() === "" || Number.isNaN(found) ? null : found;
}

function compare(a, b, column) {
  const x = a.cells[column], y = b.cells[column];
  const [p, q] = [value(x), value(y)];
  if (p !== null && q !== null) return p - q;
  if ((p === null) !== (q === null)) return p === null ? 1 : -1;
  return x.textContent.localeCompare(y.textContent);
}

function sort(head, column) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  rows.sort((a, b) => (down ? -1 : 1) * compare(a, b, column));
  body.append(...rows);
}

function filter() {
  let shown = 0;
  for (const row of rows) {
    row.hidden = Object.entries(chosen).some(([name, wanted]) => wanted && row.dataset[name] !== wanted);
    shown += !row.hidden;
  }
  bar.lastChild.textContent = `${shown} of ${rows.length} systems`;
}

[...table.tHead.rows[0].cells].forEach((head, column) => {
  const button = document.createElement("button");
  button.textContent = head.textContent;
  button.addEventListener("click", () => sort(head, column));
  head.replaceChildren(button);
});
for (const name of ["round", "organisation", "accelerator", "precision", "count"]) {
  const select = document.createElement("select");
  select.setAttribute("aria-label", name);
  select.append(new Option(`any ${name}`, ""));
  const found = [...new Set(rows.map((row) => row.dataset[name]))];
  found.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  for (const one of found) select.append(new Option(one, one));
  select.addEventListener("change", () => { chosen[name] = select.value; filter(); });
  bar.append(select);
}
bar.append(document.createElement("span"));
bar.hidden = false;
filter();
