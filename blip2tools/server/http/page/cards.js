// Results as cards, newest first, each with the picture it is about and the part that was looked at.

import { $, announce, bringIntoView, make } from "./dom.js";
import { badge, bar, doubts, verdictOf, verdictOfAnswer, verdictOfFit } from "./doubt.js";
import { codeOf } from "./code.js";
import { light, setRegion, showBoxes, spelled } from "./region.js";
import { showAgain } from "./picture.js";
import { status } from "./server.js";

const THUMB = 176;  // pixels of a thumbnail's longer side: twice what is shown

const cosine = ({ cosine: value }) => `cosine ${value.toFixed(2)}`;

/** What each verb shows of its result; `words` is what is said aloud. */
const SHOW = {
  caption(result) {
    const verdict = verdictOf(result.confidence, result);
    return {
      title: "Caption", words: `${result.text}. ${verdict.words}.`,
      nodes: [
        make("h3", { text: result.text || "(no words)" }), badge(verdict),
        bar("confidence", result.confidence, { level: verdict.level }),
        result.match && bar("match", result.match.probability, { level: verdictOfFit(result.match.probability).level, title: cosine(result.match) }),
        ...result.alternatives.flatMap((other) => [make("p", { class: "other", text: other.text }), bar("confidence", other.confidence)]),
      ],
    };
  },
  ask(result, details) {
    const verdict = verdictOfAnswer(result);
    const rows = result.choices?.map((one) => bar(one.text, one.probability)) ?? [];
    const isRanked = rows.length > 0;
    return {
      title: details.question, level: verdict.level === "no" ? "no" : "unsure", words: `${result.answer}. ${verdict.words}.`,
      nodes: [
        make("h3", { class: verdict.level === "no" ? "struck" : undefined, text: result.answer || "(no words)" }), badge(verdict), premise(result.premise),
        ...rows, bar(isRanked ? "confidence in the first" : "confidence", result.confidence, { level: verdict.level }),
      ],
    };
  },
  match(result) {
    const fitting = result.matches.filter((one) => verdictOfFit(one.probability).level === "sure").length;
    const words = fitting === 0 ? "None of these fits" : `${fitting} of ${result.matches.length} fit${fitting === 1 ? "s" : ""}`;
    return {
      title: "Match", words,
      nodes: [
        fitting ? make("h3", { text: words }) : badge({ level: "no", words }),
        ...result.matches.map((one) => {
          const { level, words: note } = verdictOfFit(one.probability);
          return bar(one.text, one.probability, { level, note, title: cosine(one) });
        }),
      ],
    };
  },
  survey(result, details, act) {
    const verdict = verdictOf(result.confidence, result);
    return {
      title: `Survey, ${details.rows} × ${details.columns}`, words: `${result.overall}. ${result.tiles.length} tiles.`,
      boxes: result.tiles.map((one) => ({ box: one.box, doubted: one.abstained, numbered: true })),
      nodes: [
        make("h3", { text: result.overall }), badge(verdict),
        make("ol", { class: "tiles" }, ...result.tiles.map((tile, number) => {
          const { level, words } = tile.abstained
            ? { level: "unsure", words: "Nothing whole here: a guess" } : verdictOf(tile.confidence);
          return make("li", {}, make("button", {
            type: "button", "data-level": level, "aria-label": `Tile ${number + 1}: look closer`,
            onclick: () => act.closer(tile.box), onpointerenter: () => act.light(number), onfocus: () => act.light(number),
            onpointerleave: () => act.light(-1), onblur: () => act.light(-1),
          }, cut(act.copy, tile.box, number + 1), make("span", { text: tile.caption }), make("small", { text: words })));
        })),
      ],
    };
  },
  read(result, details, act) {
    const many = result.lines.length;
    const words = many ? `${many} line${many === 1 ? "" : "s"} of text` : "No text was found";
    return {
      title: "Text in the picture", words: many ? `${words}. ${result.lines.map((one) => one.text).join(". ")}` : words,
      boxes: result.lines.map((one) => ({ box: one.box, doubted: verdictOf(one.confidence).level === "unsure" })),
      nodes: [
        make("h3", { text: words }),
        many && make("ul", { class: "read" }, ...result.lines.map((line, number) => {
          const { level, words: sure } = verdictOf(line.confidence);
          return make("li", { "data-level": level, onpointerenter: () => act.light(number), onpointerleave: () => act.light(-1) },
            make("q", { text: line.text }), make("small", { text: `${sure}, ${line.confidence.toFixed(2)}` }));
        })),
      ],
    };
  },
};

/** What a question takes for granted; where that is not so, a warning of the server's says it. */
function premise(one) {
  if (!one || one.holds === false) return null;
  const number = one.probability === null ? "" : ` (${one.probability.toFixed(2)})`;
  return make("p", { class: "premise", "data-level": one.holds ? "sure" : "unsure" },
    "taken for granted: ", make("em", { text: one.text }), make("span", { text: one.holds ? `, which is there${number}` : ", not checked" }));
}

/** A tile's own part of the small copy, with its number. */
function cut(copy, [left, top, right, bottom], number) {
  const box = [left * copy.width, top * copy.height, (right - left) * copy.width, (bottom - top) * copy.height];
  const canvas = make("canvas", { width: Math.ceil(box[2]), height: Math.ceil(box[3]) });
  canvas.getContext("2d").drawImage(copy, ...box, 0, 0, canvas.width, canvas.height);
  return make("span", { class: "cut" }, canvas, make("b", { text: number }));
}

// ---- the cards ----

/** A small copy of what is shown now, with the part marked. */
function copyOf(image, part) {
  const scale = Math.min(1, THUMB / Math.max(image.naturalWidth, image.naturalHeight, 1));
  const canvas = make("canvas", { width: Math.max(1, Math.round(image.naturalWidth * scale)), height: Math.max(1, Math.round(image.naturalHeight * scale)) });
  const { width, height } = canvas, drawing = canvas.getContext("2d");
  drawing.drawImage(image, 0, 0, width, height);
  if (part) {
    const [left, top, right, bottom] = part;
    const box = [left * width, top * height, (right - left) * width, (bottom - top) * height];
    drawing.fillStyle = "rgb(0 0 0 / 55%)";
    drawing.beginPath();
    drawing.rect(0, 0, width, height);
    drawing.rect(...box);
    drawing.fill("evenodd");
    for (const [color, line] of [["#000", 5], ["#fff", 2.5]]) {
      drawing.strokeStyle = color;
      drawing.lineWidth = line;
      drawing.strokeRect(...box);
    }
  }
  return canvas;
}

/**
 * A card for a call that begins. `stop` ends the call; `closer` looks at a part; `standing` are warnings told at the top.
 * Returns what fills it: `done(result)`, `failed(error)`.
 */
export function openCard({ verb, title, details, picture, part, stop, closer, standing }) {
  const started = performance.now();
  const working = make("span"), time = make("span", { class: "soft number" });
  const copy = copyOf($("preview"), part);
  const thumb = make("button", { type: "button", class: "thumb", "aria-label": "Show on the picture" }, copy);
  const body = make("div", { class: "body" }, make("p", { class: "title", text: title }),
    make("p", { class: "working" }, working, time), make("button", { type: "button", class: "button", text: "Stop", onclick: stop }));
  const card = make("article", { class: "card pending", "aria-busy": true, "data-verb": verb }, thumb, body);
  const tick = () => {
    working.textContent = status?.loaded ? "Looking … "
      : `The model is ${status?.state.startsWith("loading") ? status.state : "being loaded"} … `;
    time.textContent = `${Math.round((performance.now() - started) / 1000)} s`;
  };
  const ticking = setInterval(tick, 500);
  tick();
  let boxes = [];
  thumb.addEventListener("click", () => showIt());
  $("results").prepend(card);
  bringIntoView(card);

  const showIt = () => {
    showAgain(picture);
    setRegion(part);
    showBoxes(boxes);
  };
  const fill = (...nodes) => {
    clearInterval(ticking);
    card.classList.remove("pending");
    card.removeAttribute("aria-busy");
    body.replaceChildren(...nodes.filter(Boolean));
    bringIntoView(card);
  };
  const footer = () => {
    const facts = [part ? `part: ${spelled(part)}` : "whole picture", `${seconds(started)} s`];
    return make("footer", {}, make("p", { class: "soft", text: facts.join(" · ") }), codeOf(verb, details, picture));
  };
  return {
    done(result) {
      const act = { copy, light: (number) => light(number), closer: (box) => { showAgain(picture); closer(box); } };
      const shown = SHOW[verb](result, details, act);
      boxes = shown.boxes ?? [];
      // What a survey warns of is said at the tiles themselves.
      const warnings = verb === "survey" ? result.warnings.filter((one) => !one.includes(": tiles [")) : result.warnings;
      fill(make("p", { class: "title", text: shown.title }), ...shown.nodes, doubts(warnings, standing, shown.level), footer());
      announce(shown.words);
      return boxes;
    },
    failed(error) {
      card.classList.add("error");
      card.dataset.code = error.code ?? "";
      fill(make("p", { class: "title", text: title }), badge({ level: "no", words: error.message }), footer());
      announce(error.message);
    },
    stopped() {
      clearInterval(ticking);
      card.remove();
      announce("Stopped.");
    },
  };
}

function seconds(started) {
  const passed = (performance.now() - started) / 1000;
  return passed.toFixed(passed < 10 ? 2 : 0);
}
