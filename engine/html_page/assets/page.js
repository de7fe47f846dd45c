"use strict";
// The grid of samples: arrow keys walk through it, Enter opens an image, and the large view flips in place.
(() => {
  const grid = document.getElementById("grid");
  const view = document.getElementById("view");
  if (!grid || !view || !view.showModal) return;
  document.documentElement.classList.add("scripted");

  const cells = [...grid.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  const names = [...grid.tHead.rows[0].cells].slice(1).map((head) => head.dataset.name);
  const prompts = [...grid.tBodies[0].rows].map((row) => row.cells[0].innerText.trim().replace(/\s*\n\s*/g, " · "));
  const base = "base" in grid.dataset ? Number(grid.dataset.base) : null;
  const at = { row: 0, column: Number(grid.dataset.start), flipped: false };

  const inside = (place, length) => Math.max(0, Math.min(length - 1, place));
  const cell = () => cells[at.row][at.column];

  cells.flat().forEach((one) => {
    one.tabIndex = -1;
    one.classList.add("open");
    one.setAttribute("aria-haspopup", "dialog");
  });
  cell().tabIndex = 0;

  // The column to begin with may be far to the right; the page itself must not jump.
  const scroll = grid.parentElement;
  scroll.scrollLeft = cell().offsetLeft + cell().offsetWidth - scroll.clientWidth;

  function go(row, column) {
    cell().tabIndex = -1;
    at.row = inside(row, cells.length);
    at.column = inside(column, names.length);
    cell().tabIndex = 0;
  }

  function show() {
    const column = at.flipped && base !== null ? base : at.column;
    const image = cells[at.row][column].firstElementChild;
    document.getElementById("view-place").replaceChildren(image ? image.cloneNode(true) : "");
    document.getElementById("view-name").textContent = names[column];
    document.getElementById("view-prompt").textContent = prompts[at.row];
    const button = document.getElementById("view-base");
    if (button) button.setAttribute("aria-pressed", String(at.flipped));
    view.dataset.row = at.row;
    view.dataset.column = column;
  }

  function open(flipped) {
    at.flipped = flipped;
    show();
    view.showModal();
  }

  const moves = {
    ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
    Home: [0, -1e6], End: [0, 1e6],
  };

  function press(key) {
    const large = view.open;
    if (key in moves) {
      at.flipped = false;
      go(at.row + moves[key][0], at.column + moves[key][1]);
    } else if (key.toLowerCase() === "b" && base !== null) {
      if (large) at.flipped = !at.flipped;
      else open(true);
    } else if (key === "Escape" && large) {
      view.close();
      return true;
    } else if ((key === "Enter" || key === " ") && !large) {
      open(false);
    } else {
      return false;
    }
    if (view.open) show();
    else cell().focus();
    return true;
  }

  function heard(event) {
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (plain && press(event.key)) event.preventDefault();
  }

  grid.addEventListener("keydown", heard);
  view.addEventListener("keydown", heard);
  view.addEventListener("close", () => cell().focus());
  view.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) press(button.dataset.key);
    else if (event.target === view) view.close();
  });
  grid.addEventListener("click", (event) => {
    const chosen = event.target.closest("td");
    if (!chosen) return;
    const row = cells.findIndex((one) => one.includes(chosen));
    go(row, cells[row].indexOf(chosen));
    open(false);
  });
})();
