// The page: what is asked for becomes a call, and its answer a card.

import { $, lines, make, spoken } from "./dom.js";
import { callTool, start, status } from "./server.js";
import { region, onRegion, setRegion, showBoxes } from "./region.js";
import { onPicture, openPath, picture, sendAgain, settled, take } from "./picture.js";
import { showSamples } from "./samples.js";
import { onTab, selectTab, tab } from "./tabs.js";
import { openCard } from "./cards.js";
import { onFound, showSearch } from "./search.js";

const RETRY_MS = 2000;
const READS = "read text: use read_text";  // what a server with the extra says that its model cannot do

// ---- calls ----

async function look(verb, title, details) {
  await settled();
  if (!picture) { selectTab(tab); $("file").focus(); return; }
  if (matchMedia("(pointer: coarse)").matches) document.activeElement?.blur();  // the keyboard would cover the result
  const stopper = new AbortController(), mine = picture, part = verb === "survey" ? null : region;
  const given = { image: mine.reference, ...(part ? { region: part } : {}), ...details };
  const card = openCard({
    verb, title, details: given, picture: mine, part, stop: () => stopper.abort(), closer: lookCloser, standing: status?.warnings ?? [],
  });
  try {
    const boxes = card.done(await answer(verb, given, mine, stopper.signal));
    if (picture === mine) showBoxes(boxes);
  } catch (error) {
    if (error.name === "AbortError" || error.number === 401) card.stopped();
    else card.failed(error);
  }
}

/** A tool's answer; meanwhile the model may have to be loaded, or the picture be sent again. */
async function answer(verb, given, mine, signal) {
  for (let isNew = false; ;) {
    try {
      return await callTool(verb, given, signal);
    } catch (error) {
      if (error.code === "not_found" && mine.file && !isNew) {
        isNew = true;
        await sendAgain(mine);
      } else if (error.code === "model_unavailable" && status?.state.startsWith("loading")) {
        await later(RETRY_MS, signal);
      } else throw error;
    }
  }
}

function later(wait, signal) {
  return new Promise((done, stop) => {
    setTimeout(done, wait);
    signal.addEventListener("abort", () => stop(signal.reason), { once: true });
  });
}

const caption = () => look("caption", "Caption", { num_captions: Number($("count").value) });

function lookCloser(box) {
  setRegion(box);
  selectTab("look");
  caption();
}

function on(id, run) {
  $(id).addEventListener("submit", (event) => { event.preventDefault(); run(); });
}
on("caption", caption);
on("ask", () => {
  const choices = lines("choices");
  look("ask", $("question").value, { question: $("question").value, ...(choices.length ? { choices } : {}) });
});
on("match", () => look("match", "Match", { texts: lines("texts") }));
on("survey", () => look("survey", "Survey", { rows: Number($("rows").value), columns: Number($("columns").value) }));
$("read").addEventListener("click", () => look("read", "Text in the picture", {}));

// ---- what is shown ----

function arrange() {
  const isOpen = !$("tabs").hidden, isSearch = tab === "search";
  document.querySelector("main").dataset.picture = picture ? "yes" : "no";
  $("hero").hidden = !isOpen || Boolean(picture) || isSearch;
  $("shown").hidden = !isOpen || !picture || isSearch;
  $("work").hidden = !isOpen || (!picture && !isSearch);
  $("results").hidden = isSearch;
  if (isOpen && isSearch && status) showSearch();
}

onTab(arrange);

onPicture((one, again) => {
  const hadFocus = $("hero").contains(document.activeElement) || document.activeElement === document.body;
  $("questions").replaceChildren(...one.questions.map((text) => make("li", {}, make("button", {
    type: "button", text, onclick: () => { $("question").value = text; $("ask").requestSubmit(); },
  }))));
  if (one.texts.length && !$("texts").value) $("texts").value = one.texts.join("\n");
  if (tab === "search") selectTab("look");
  arrange();
  if (again) return;
  if (hadFocus) $("stage").focus({ preventScroll: true });
  scrollTo({ top: 0, behavior: "instant" });
  caption();
});

onRegion((part) => {
  $("caption-button").textContent = part ? "Caption this part" : "Caption";
});

onFound(openPath);

start((told) => {
  const isOpen = told !== null;
  $("tabs").hidden = !isOpen;
  $("notes").hidden = !isOpen || told.warnings.length === 0;
  arrange();
  if (!isOpen) return;
  $("notes").replaceChildren(...told.warnings.map((one) => make("li", {}, ...spoken(one))));
  $("read").hidden = !told.cannot.includes(READS);
  for (const note of document.querySelectorAll(".missing")) {
    note.hidden = !told.loaded || told.matcher !== null;
    note.textContent = "There is no image-text matcher for this model, so it cannot match.";
  }
  showSamples(take);
});
selectTab("look");
