// Drawings to begin with, and what to ask about them: one question of each is a trap.

import { $, make } from "./dom.js";
import { sample } from "./server.js";

export const SAMPLES = [
  {
    name: "shapes", title: "Shapes",
    questions: ["what color is the star?", "how many shapes are there?", "what color is the triangle?"],
    texts: ["a blue star", "a blue heart", "an orange ring above a blue star"],
  },
  {
    name: "sign", title: "A sign",
    questions: ["what does the sign say?", "is the cross below the sign?", "what color is the circle?"],
    texts: ["a green sign saying 7", "a green sign saying 1", "a red star"],
  },
  {
    name: "corners", title: "Corners",
    questions: ["how many circles are there?", "what color is the diamond?", "what shape is in the middle?"],
    texts: ["a yellow circle", "a green triangle", "a red circle"],
  },
];

let drawn = null;

/** Draw the buttons once; `take` gets the file of the one that is chosen, and what to ask about it. */
export async function showSamples(take) {
  drawn ??= Promise.all(SAMPLES.map(async (one) => ({ ...one, blob: await sample(one.name) })));
  let found;
  try {
    found = await drawn;
  } catch {
    drawn = null;  // the server went; when it is back they are asked for again
    return;
  }
  if ($("samples").childElementCount) return;
  $("samples").append(...found.map(({ blob, ...one }) => make("li", {},
    make("button", { type: "button", onclick: () => take(new File([blob], `${one.name}.png`, { type: blob.type }), one) },
      make("img", { src: URL.createObjectURL(blob), alt: "", width: 448, height: 448 }), make("span", { text: one.title })))));
}
