"use strict";
// A point of the scatter and its row of the table light up together; a point's label becomes its tooltip.
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
  for (const row of document.querySelectorAll("#candidates tr[data-trial]")) {
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
    if (mark) mark.addEventListener("click", () => row.scrollIntoView({ block: "center", behavior: "smooth" }));
  }
})();
