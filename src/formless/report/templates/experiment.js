"use strict";
for (const choice of document.querySelectorAll("select[data-maps]")) {
  const show = () => {
    for (const map of document.querySelectorAll(`[data-map="${choice.dataset.maps}"]`)) map.hidden = map.dataset.metric !== choice.value;
  };
  choice.hidden = false;
  choice.addEventListener("change", show);
  show();
}
const search = document.getElementById("search");
if (search) {
  const said = document.getElementById("found");
  const rows = [...document.querySelectorAll(".answers tbody tr")].map((row) => {
    const box = row.closest("details");
    return { row, box, text: `${box.dataset.target} ${row.textContent}`.toLowerCase() };
  });
  let waiting = 0;
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const boxes = new Map();
    let count = 0;
    for (const { row, box, text } of rows) {
      const fits = words.every((word) => text.includes(word));
      row.hidden = !fits;
      count += fits;
      boxes.set(box, boxes.get(box) || fits);
    }
    for (const [box, fits] of boxes) {
      box.hidden = !fits;
      box.open = words.length ? fits : box.dataset.first === "1";
    }
    said.textContent = words.length ? `${count} of ${rows.length} questions` : `${rows.length} questions`;
  };
  search.closest("p").hidden = false;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  filter();
}
