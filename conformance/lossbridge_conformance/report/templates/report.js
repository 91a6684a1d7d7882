"use strict";
for (const box of document.querySelectorAll("[data-grid]")) {
  const table = box.querySelector("table"), body = table.tBodies[0], form = box.querySelector("form");
  const all = (selector) => [...table.querySelectorAll(selector)];
  const apply = () => {
    const words = form.search.value.toLowerCase(), least = Number(form.show.value);
    const off = new Set([...form.querySelectorAll("[type=checkbox]")].filter((b) => !b.checked).map((b) => b.value));
    const gone = (cell) => off.has("sub:" + cell.dataset.sub) || off.has("group:" + cell.dataset.group);
    for (const cell of all("[data-sub]")) cell.hidden = gone(cell);
    for (const head of all("th[data-head]")) {
      const span = all("th[data-sub]").filter((c) => c.dataset.column === head.dataset.head && !c.hidden).length;
      head.hidden = span === 0;
      head.colSpan = Math.max(span, 1);
    }
    let shown = 0;
    for (const row of body.rows) {
      const weights = [...row.cells].filter((c) => c.dataset.weight && !c.hidden).map((c) => Number(c.dataset.weight));
      row.hidden = !row.dataset.name.toLowerCase().includes(words) || (least > 0 && !(Math.max(...weights) >= least));
      shown += row.hidden ? 0 : 1;
    }
    box.querySelector("output").textContent = shown + " of " + body.rows.length + " losses";
  };
  const sort = (index, button) => {
    const down = button.dataset.down !== "true";
    for (const other of all("button[data-sort]")) { delete other.dataset.down; other.closest("th").removeAttribute("aria-sort"); }
    button.dataset.down = down;
    button.closest("th").setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => index === 0 ? row.dataset.name : Number(row.cells[index].dataset.weight || -1);
    const order = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
    const rows = [...body.rows].sort((a, b) => (down === (index !== 0) ? order(b, a) : order(a, b)));
    body.append(...rows);
  };
  for (const button of all("button[data-sort]")) {
    button.addEventListener("click", () => sort(Number(button.dataset.sort), button));
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}
