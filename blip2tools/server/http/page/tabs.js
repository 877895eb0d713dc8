// One thing to do at a time: tabs, as the ARIA Authoring Practices have them.

import { $ } from "./dom.js";

const TABS = ["look", "ask", "match", "survey", "search"];
const PURPOSES = {
  look: "One sentence about what is in it, at once, and how sure the model is.",
  ask: "Then ask: a short answer, how sure it is, and whether the question holds.",
  match: "Then check statements: the probability that each fits.",
  survey: "Then get a map in words: what is in each tile.",
  search: "",
};

export let tab = "look";

let changed = () => {};

export function onTab(then) { changed = then; }

export function selectTab(name, { focus = false } = {}) {
  tab = name;
  for (const one of TABS) {
    const isIt = one === name;
    $(`tab-${one}`).setAttribute("aria-selected", isIt);
    $(`tab-${one}`).tabIndex = isIt ? 0 : -1;
    $(`panel-${one}`).hidden = !isIt;
  }
  document.querySelector("main").dataset.tab = name;
  $("purpose").textContent = PURPOSES[name];
  if (focus) $(`tab-${name}`).focus();
  changed(name);
}

$("tabs").addEventListener("click", (event) => {
  const chosen = event.target.closest("[role=tab]");
  if (chosen) selectTab(chosen.id.slice("tab-".length));
});

$("tabs").addEventListener("keydown", (event) => {
  const at = TABS.indexOf(tab), last = TABS.length - 1;
  const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  selectTab(TABS[to], { focus: true });
});
