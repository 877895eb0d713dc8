// The part of the picture that is looked at: drawn with a finger, the mouse or keys; and boxes that a result found.

import { $, make } from "./dom.js";

const STEP = 0.02, LEAST = 0.02;

/** [left, top, right, bottom] as fractions, or null for the whole picture. */
export let region = null;

let gesture = null;
let told = () => {};

const within = (value) => Math.min(1, Math.max(0, value));

export function setRegion(next) {
  region = next && next.map((edge) => Number(edge.toFixed(4)));
  $("region").hidden = $("whole").hidden = !region;
  if (region) {
    place($("region"), region);
    showBoxes([]);
  }
  $("region-text").textContent = region ? `Part: ${spelled(region)}` : "";
  told(region);
}

/** Call `then` whenever the part changes. */
export function onRegion(then) { told = then; }

export const spelled = ([left, top, right, bottom]) => {
  const [x0, y0, x1, y1] = [left, top, right, bottom].map((edge) => Math.round(edge * 100));
  return `${x0}–${x1} % across, ${y0}–${y1} % down`;
};

export function place(node, [left, top, right, bottom]) {
  Object.assign(node.style, {
    left: `${left * 100}%`, top: `${top * 100}%`, width: `${(right - left) * 100}%`, height: `${(bottom - top) * 100}%`,
  });
}

// ---- boxes of a result ----

/** Draw boxes over the picture, numbered if there are few; each may be doubted. */
export function showBoxes(boxes) {
  $("boxes").replaceChildren(...boxes.map(({ box, doubted, numbered }, number) => {
    const node = make("li", { "data-number": number, class: doubted ? "doubted" : undefined },
      numbered && make("b", { text: number + 1 }));
    place(node, box);
    return node;
  }));
}

export function light(number) {
  for (const box of $("boxes").children) box.classList.toggle("lit", Number(box.dataset.number) === number);
}

// ---- with a pointer ----

function pointed(event) {
  const box = $("preview").getBoundingClientRect();
  return [within((event.clientX - box.left) / box.width), within((event.clientY - box.top) / box.height)];
}

function picks(on) {
  $("pick").setAttribute("aria-pressed", on);
  $("stage").classList.toggle("picking", on);
}

$("stage").addEventListener("pointerdown", (event) => {
  const onRegion = region && event.target.closest("#region");
  // A finger on the picture scrolls the page, unless a part is being picked.
  if (event.button || (event.pointerType === "touch" && !onRegion && !$("stage").classList.contains("picking"))) return;
  const corner = event.target.dataset.corner;
  gesture = { kind: corner ? "size" : onRegion ? "move" : "draw", from: pointed(event), start: region, corner };
  if (gesture.kind === "size") {
    const [left, top, right, bottom] = region;
    gesture.from = [corner.includes("left") ? right : left, corner.includes("top") ? bottom : top];  // the opposite corner stays
  }
  $("stage").setPointerCapture(event.pointerId);
});

$("stage").addEventListener("pointermove", (event) => {
  if (!gesture) return;
  const { kind, from, start } = gesture, to = pointed(event);
  if (kind === "move") return setRegion(moved(start, to[0] - from[0], to[1] - from[1]));
  const next = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  if (next[2] - next[0] >= LEAST && next[3] - next[1] >= LEAST) setRegion(next);
  else if (kind === "draw") setRegion(null);
});

for (const kind of ["pointerup", "pointercancel"]) {
  $("stage").addEventListener(kind, () => { if (gesture && region) picks(false); gesture = null; });
}

// What an earlier gesture has selected would be dragged away as in a text, and the gesture with it (Chromium 150).
$("stage").addEventListener("dragstart", (event) => event.preventDefault());

$("pick").addEventListener("click", () => {
  const on = $("pick").getAttribute("aria-pressed") !== "true";
  picks(on);
  if (on && !region) setRegion([0.25, 0.25, 0.75, 0.75]);
  $("stage").focus({ preventScroll: true });
});

$("whole").addEventListener("click", () => { setRegion(null); picks(false); $("stage").focus({ preventScroll: true }); });

// ---- with keys ----

const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

function moved([left, top, right, bottom], across, down) {
  const x = Math.max(-left, Math.min(1 - right, across)), y = Math.max(-top, Math.min(1 - bottom, down));
  return [left + x, top + y, right + x, bottom + y].map(within);
}

function resized([left, top, right, bottom], across, down) {
  return [left, top, within(Math.max(left + LEAST, right + across)), within(Math.max(top + LEAST, bottom + down))];
}

$("stage").addEventListener("keydown", (event) => {
  const step = ARROWS[event.key];
  if (event.key === "Escape") { setRegion(null); picks(false); return; }
  if ((event.key !== "Enter" && !step) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  if (!region) setRegion([0.25, 0.25, 0.75, 0.75]);
  else if (step) setRegion(event.shiftKey ? resized(region, ...step) : moved(region, ...step));
});
