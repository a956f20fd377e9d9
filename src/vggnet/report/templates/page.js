"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

// Charts. Their colors are variables of the page, so they follow its color scheme.
const views = [];
for (const place of document.querySelectorAll("[data-chart]")) {
  window.vegaEmbed(place, data.charts[place.dataset.chart], { renderer: "svg", actions: false }).then(({ view }) => {
    views.push(view);
    if (view.getState().signals.drawn_x !== undefined) zoomByDrawing(view, place);
  });
}

// Touch has no hover: when a finger is lifted from a chart, show the tooltip of that place until the next touch.
document.addEventListener("pointerdown", () => {
  document.getElementById("vg-tooltip-element")?.classList.remove("visible");
});
document.addEventListener("pointerup", ({ pointerType, target, clientX, clientY }) => {
  if (pointerType !== "touch" || !target.closest(".chart")) return;
  setTimeout(() => target.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, bubbles: true })), 50);
});

// The epochs in view, the same for all curves.
const first = document.getElementById("view-first");
const last = document.getElementById("view-last");

function showEpochs(from, to) {
  const most = Number(last.max);
  const low = Math.max(1, Math.min(Math.round(from), most - 1));
  const high = Math.min(most, Math.max(Math.round(to), low + 1));
  [first.value, last.value] = [low, high];
  for (const view of views) {
    const signals = view.getState().signals;
    if ("first" in signals) view.signal("first", low).signal("last", high).runAsync();
  }
}

function zoomByDrawing(view, place) {
  let drawn = null;
  view.addSignalListener("drawn", (_, value) => (drawn = value.epoch));
  place.addEventListener("pointerup", () => {
    if (!drawn || !first) return;
    const [from, to] = drawn;
    drawn = null;
    view.signal("drawn_x", [0, 0]).runAsync();
    if (to - from > 0.5) showEpochs(from, to);
  });
}

if (first) {
  const change = () => showEpochs(Number(first.value) || 1, Number(last.value) || Number(last.max));
  first.addEventListener("change", change);
  last.addEventListener("change", change);
  document.getElementById("view").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("view-all").addEventListener("click", () => showEpochs(1, Number(last.max)));
  // The later half: where the curves are flat and differ least.
  document.getElementById("view-in").addEventListener("click", () => {
    showEpochs((Number(first.value) + Number(last.value)) / 2, Number(last.value));
  });
}

// Pictures. Each is in the page once.
const NO_PICTURES = "None of these images is in the page: they did not fit, or a note at its top says why.";

function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

function figureOf(index) {
  const image = data.images[index];
  const [isClass, saidClass] = [data.classes[image.true], data.classes[image.predicted]];
  const wrong = image.true !== image.predicted;
  const item = document.createElement("li");
  const add = (kind, text, name) => {
    const part = item.appendChild(document.createElement(kind));
    part.className = name;
    part.textContent = text;
  };
  if (image.picture) {
    const picture = item.appendChild(document.createElement("img"));
    picture.src = image.picture;
    picture.alt = `${image.name}, a ${isClass}`;
    picture.dataset.index = index;
  }
  add("span", `true ${isClass}`, "true");
  add("span", `predicted ${saidClass}, ${percent(image.confidence)}`, wrong ? "bad" : "good");
  add("span", image.name, "place");
  item.title = `${image.name}: loss ${image.loss} nats`;
  return item;
}

for (const gallery of document.querySelectorAll("[data-gallery]")) {
  gallery.append(...gallery.dataset.gallery.split(" ").map(figureOf));
}

const dialog = document.getElementById("pictures");
const [title, note, gallery] = ["#pictures-title", "#pictures-note", ".gallery"].map((name) => dialog.querySelector(name));

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.cell");
  if (!button) return;
  const cell = button.dataset.cell;
  const [isClass, saidClass] = cell.split("-").map((index) => data.classes[index]);
  const shown = data.cells[cell] ?? [];
  const count = Number(button.dataset.count);
  title.textContent = isClass === saidClass ? `${isClass}, predicted correctly` : `True ${isClass}, predicted ${saidClass}`;
  note.textContent = shown.length ? `${shown.length} of ${count} images, those of the highest loss first` : NO_PICTURES;
  gallery.replaceChildren(...shown.map(figureOf));
  dialog.showModal();
  dialog.scrollTop = 0;
});
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside it
});
