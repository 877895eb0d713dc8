// The same call for a program: as curl, and in Python.

import { announce, make } from "./dom.js";
import { hasToken, status } from "./server.js";

const forShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const fileName = (name) => (name.startsWith("-") ? `./${name}` : name);

/** Commands that upload the picture, if it has to be, and call the tool. */
export function asCurl(verb, details, picture) {
  const token = hasToken() ? ' -H "Authorization: Bearer $BLIP2TOOLS_TOKEN"' : "";
  const call = `curl -s${token} -H "Content-Type: application/json" -d ${forShell(JSON.stringify(details))} ${location.origin}/api/${verb}`;
  if (!picture?.file) return call;
  // Quotes inside: in a form's field a comma or semicolon would end the name.
  const file = `image=@"${fileName(picture.name).replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
  return `curl -s${token} -F ${forShell(file)} ${location.origin}/images\n${call}`;
}

// JSON's texts, numbers and lists are Python's, too.
function pythonText(value) {
  if (Array.isArray(value)) return `[${value.map(pythonText).join(", ")}]`;
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** A program that asks the model itself, without a server. */
export function asPython(verb, details, picture) {
  const { image, question, texts, query, ...more } = details;
  const given = [
    ...(image === undefined ? [] : [pythonText(picture?.file ? picture.name : image)]),
    ...[question, texts, query].filter((one) => one !== undefined).map(pythonText),
  ];
  if (verb === "search" && query === undefined) given[0] = `image=${given[0]}`;
  const options = Object.entries(more).map(([name, value]) => `${name}=${pythonText(value)}`);
  return [
    "from blip2tools import Vision",
    "",
    `with Vision.load(model=${pythonText(status?.model ?? "auto")}) as vision:`,
    `    print(vision.${verb}(${[...given, ...options].join(", ")}).text_block())`,
  ].join("\n");
}

/** Both, folded away, each with a button that copies it. */
export function codeOf(verb, details, picture) {
  return make("details", { class: "code" }, make("summary", { text: "Copy as code" }),
    snippet("curl", asCurl(verb, details, picture)), snippet("Python", asPython(verb, details, picture)));
}

function snippet(name, text) {
  const shown = make("pre", { text });
  const button = make("button", { type: "button", class: "button", "aria-label": `Copy as ${name}`, text: `Copy ${name}` });
  button.addEventListener("click", async () => {
    const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    // Only a page from this machine or over TLS may write to the clipboard; elsewhere the person presses the keys.
    if (!copied) getSelection().selectAllChildren(shown);
    button.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
    announce(copied ? `Copied as ${name}.` : "Selected. Press Control and C to copy.");
    setTimeout(() => { button.textContent = `Copy ${name}`; }, 2500);
  });
  return make("div", { class: "snippet" }, make("div", { class: "line" }, make("span", { text: name }), button), shown);
}
