"use strict";
// A point of the scatter and its row light up together; headings sort; arrow keys go from row to row.
(function () {
  const points = new Map();
  for (const mark of document.querySelectorAll("#scatter [aria-label^='trial ']")) {
    const label = mark.getAttribute("aria-label");
    const trial = label.slice("trial ".length, label.indexOf(":"));
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = label;
    mark.append(title);
    points.set(trial, mark);
  }
  const table = document.getElementById("candidates");
  const rows = [...table.tBodies[0].rows];

  function enter(row) {
    for (const other of rows) other.tabIndex = other === row ? 0 : -1;
    row.focus();
  }

  for (const row of rows) {
    const mark = points.get(row.dataset.trial);
    const light = (on) => {
      row.classList.toggle("lit", on);
      if (mark) mark.classList.toggle("lit", on);
    };
    for (const part of mark ? [row, mark] : [row]) {
      part.addEventListener("mouseenter", () => light(true));
      part.addEventListener("mouseleave", () => light(false));
    }
    row.addEventListener("focus", () => light(true));
    row.addEventListener("blur", () => light(false));
    if (mark) mark.addEventListener("click", () => { row.scrollIntoView({ block: "center" }); enter(row); });
    row.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const next = step && table.tBodies[0].rows[row.sectionRowIndex + step];
      if (event.target !== row || !next) return;
      event.preventDefault();
      enter(next);
    });
  }

  const value = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.classList.contains("number") ? NaN : cell.textContent.trim();
  };
  const compare = (a, b) => {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a < b ? -1 : a > b ? 1 : 0;
  };
  for (const heading of table.tHead.rows[0].cells) {
    const button = heading.querySelector("button");
    if (!button) continue;
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells)
        if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const column = heading.cellIndex;
      const sorted = rows.map((row) => [value(row, column), row]).sort(([a], [b]) => {
        const missing = Number.isNaN(a) || Number.isNaN(b);
        return down && !missing ? compare(b, a) : compare(a, b);
      });
      table.tBodies[0].append(...sorted.map(([, row]) => row));
    });
  }
})();
