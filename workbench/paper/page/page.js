
"use strict";

// Tables: a click on a column's name sorts each group of rows: numbers from the highest, names from A, then the other
// way, then in the grid's own order again. Rows without a number stay last.
function sortBy(button) {
  const header = button.closest("th"), table = header.closest("table"), column = header.cellIndex;
  const first = column === 0 ? "ascending" : "descending";
  const second = first === "ascending" ? "descending" : "ascending";
  const now = header.getAttribute("aria-sort");
  const order = now === "none" ? first : now === first ? second : "none";
  for (const other of table.tHead.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
    rows.forEach((row, place) => { row.dataset.place ??= place; });
    rows.sort((one, other) => order === "none" ? one.dataset.place - other.dataset.place
      : compare(one.cells[column].dataset.value, other.cells[column].dataset.value, column === 0, order));
    body.append(...rows);
  }
}

function compare(one, other, asText, order) {
  if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
  const difference = asText ? one.localeCompare(other) : one - other;
  return order === "ascending" ? difference : -difference;
}

// A cell: what stands behind its number, and what the page says of its setting.
const opened = document.getElementById("opened");

function open(cell) {
  document.getElementById("opened-title").textContent = cell.heading;
  opened.querySelector(".total").textContent = cell.value;
  const count = `${cell.expressions.toLocaleString("en")} expressions${cell.seeds.length ? " per seed" : ""}`;
  opened.querySelector(".how").textContent = [cell.interval, count].filter(Boolean).join("; ") + ".";
  opened.querySelector(".tests").replaceChildren(...cell.tests.map(paragraph));
  opened.querySelector(".seeds").replaceChildren(...(cell.seeds.length ? [seedTable(cell.seeds)] : []));
  opened.querySelector(".seeds").hidden = cell.seeds.length === 0;
  const setting = cell.setting === null ? null : document.getElementById(cell.setting);
  const body = setting === null ? [] : [setting.querySelector(".setting-body").cloneNode(true)];
  opened.querySelector(".of-setting").replaceChildren(...body);
  opened.showModal();
  opened.scrollTop = 0;
}

function paragraph(text) {
  const made = document.createElement("p");
  made.textContent = text;
  return made;
}

function seedTable(seeds) {
  const table = document.createElement("table");
  table.createCaption().textContent = "By seed";
  const names = table.createTHead().insertRow(), body = table.createTBody();
  for (const name of ["Seed", "Value", "Run"]) heading(names, "col", name, name !== "Run");
  for (const { seed, value, run } of seeds) {
    const row = body.insertRow();
    heading(row, "row", seed, true);
    const number = row.insertCell(), code = document.createElement("code");
    number.className = "number";
    number.textContent = value;
    code.textContent = run;
    row.insertCell().append(code);
  }
  return table;
}

function heading(row, scope, text, isNumber) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = text;
  if (isNumber) cell.className = "number";
  row.append(cell);
}

// The gallery: what is chosen in all of its lists at once.
function filter(form) {
  const wanted = Object.fromEntries([...form.elements].filter((e) => e.name).map((e) => [e.name, e.value]));
  let shown = 0;
  for (const card of form.parentElement.querySelectorAll(".card")) {
    const { groups, kind, split } = card.dataset;
    card.hidden = !((!wanted.groups || groups.split(" ").includes(wanted.groups))
      && (!wanted.kind || kind === wanted.kind) && (!wanted.split || split === wanted.split));
    shown += !card.hidden;
  }
  form.querySelector("output").textContent = `${shown} of ${form.parentElement.querySelectorAll(".card").length} shown`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target === opened) opened.close();
  else if (button?.classList.contains("sort")) sortBy(button);
  else if (button?.classList.contains("cell")) open(JSON.parse(button.dataset.cell));
  else if (button?.classList.contains("close")) opened.close();
});
for (const form of document.querySelectorAll(".filters")) {
  form.addEventListener("change", () => filter(form));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter(form);
}
