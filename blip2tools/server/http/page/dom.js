// Elements by name, new elements, and words for those who listen to the page.

export const $ = (id) => document.getElementById(id);

/** A new element. `facts` are attributes; `class` and `text` are what they say, and `on…` listens. */
export function make(tag, facts = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(facts)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(Boolean));
  return node;
}

/** Words of the server's in which `this` is a command; nothing in them is ever markup. */
export function spoken(text) {
  return text.split("`").map((part, number) => (number % 2 ? make("code", { text: part }) : part));
}

export function announce(text) {
  $("said").textContent = "";
  requestAnimationFrame(() => { $("said").textContent = text; });
}

export const lines = (id) => $(id).value.split("\n").map((line) => line.trim()).filter(Boolean);

export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Scroll until `least` pixels of a new result are in view, or all of it, and no further. */
export function bringIntoView(node, least = 320) {
  const box = node.getBoundingClientRect();
  const top = document.querySelector("header").getBoundingClientRect().bottom;
  const bars = [...document.querySelectorAll("#tabs")].map((bar) => bar.getBoundingClientRect());
  const bottom = Math.min(innerHeight, ...bars.filter((bar) => bar.top > innerHeight / 2).map((bar) => bar.top));
  const edge = 12, wanted = Math.min(box.height, least, bottom - top - 2 * edge);
  let by = 0;
  if (box.top < top + edge) by = box.top - top - edge;
  else if (box.top + wanted > bottom - edge) by = box.top + wanted - bottom + edge;
  if (by) scrollBy({ top: by, behavior: isStill() ? "instant" : "smooth" });
}
