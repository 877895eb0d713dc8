// How sure a result is, in words and in a colour; never in a colour alone.

import { make, spoken } from "./dom.js";

const SURE = 0.8, LIKELY = 0.5;  // below 0.5 the server warns, too
const NONE_OF_THESE = "none of the choices";  // how the server's warning begins

const MARKS = { sure: "✓", likely: "≈", unsure: "?", no: "✕" };

/** Level and words of a probability. */
export function verdictOf(value, { abstained = false } = {}) {
  if (abstained) return { level: "unsure", words: "Not known: a guess" };
  if (value >= SURE) return { level: "sure", words: "Sure" };
  return value >= LIKELY ? { level: "likely", words: "Fairly sure" } : { level: "unsure", words: "Unsure" };
}

/** The same for an answer, whose question may take something for granted, or offer nothing that fits. */
export function verdictOfAnswer(result) {
  if (result.premise?.holds === false) return { level: "no", words: "The question does not hold" };
  if (result.warnings.some((one) => one.startsWith(NONE_OF_THESE))) return { level: "no", words: "None of these fits" };
  return verdictOf(result.confidence, result);
}

export const verdictOfFit = (probability) =>
  probability >= LIKELY ? { level: "sure", words: "fits" } : { level: "no", words: "does not fit" };

export function badge({ level, words }, value) {
  const number = value === undefined ? null : make("span", { class: "number", text: value.toFixed(2) });
  return make("p", { class: "verdict", "data-level": level },
    make("span", { class: "mark", "aria-hidden": "true", text: MARKS[level] }), make("span", { text: words }), number);
}

export function bar(name, value, { level = "plain", note, title } = {}) {
  const fill = make("i");
  fill.style.width = `${value * 100}%`;
  const meter = make("div", {
    class: "meter", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": value.toFixed(3),
  }, fill);
  return make("div", { class: "measure", "data-level": level, title },
    make("span", { text: name }), meter, make("span", { class: "number", text: value.toFixed(2) }), note && make("span", { class: "note", text: `${MARKS[level]} ${note}` }));
}

/** The reasons for doubt that a result gives, but those that hold for every result and stand at the top. */
export function doubts(warnings, standing, level = "unsure") {
  const own = warnings.filter((one) => !standing.includes(one));
  return own.length ? make("ul", { class: "warnings", "data-level": level }, ...own.map((one) => make("li", {}, ...spoken(one)))) : null;
}
