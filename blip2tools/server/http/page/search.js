// Search in the folders that the server may read: a grid of what fits, or the best miss.

import { $, announce, bringIntoView, make, spoken } from "./dom.js";
import { badge, doubts, verdictOfFit } from "./doubt.js";
import { callTool, status, thumbnail } from "./server.js";
import { codeOf } from "./code.js";
import { picture } from "./picture.js";

const LIMIT = 24, GRID_SIDE = 320, AT_ONCE = 3, NEWEST = 12, MISSES = 4;

let latest = 0;
let isListed = false;
let choose = () => {};

/** Call `then` with the path of a picture that was chosen. */
export function onFound(then) { choose = then; }

/** Show what can be searched, by the server's status. */
export function showSearch() {
  const folders = status.limits.allowed_folders;
  const closed = folders.length === 0
    ? ["This server may read no folder, so there is nothing to search. Start it with one: ", "`blip2tools serve --http --allow-dir FOLDER`"]
    : status.loaded && status.matcher === null ? ["There is no image-text matcher for this model, so it cannot search."] : null;
  $("closed").hidden = !closed;
  $("search").hidden = Boolean(closed);
  if (closed) $("closed").replaceChildren(...spoken(closed.join("")));
  $("folders").replaceChildren(...folders.map((name) => make("option", { value: name })));
  $("copies").hidden = !picture;
  if (!closed && !isListed) showNewest();
}

/** Before the first search: what there is. */
async function showNewest() {
  isListed = true;
  const mine = ++latest;
  let found;
  try {
    found = await callTool("list", { limit: NEWEST });
  } catch {
    isListed = false;  // next time
    return;
  }
  if (mine !== latest) return;
  $("found").replaceChildren(found.images.length
    ? make("h3", { class: "quiet", text: "Or look at one of the newest" })
    : make("p", { class: "notice", text: "There is no picture in the folders that this server may read." }),
  make("ul", { class: "grid" }, ...found.images.map((one) => make("li", {}, hit(one.path)))));
  fetchAll();
}

async function find(details, what) {
  const mine = ++latest;
  const folder = $("folder").value.trim();
  const given = { ...details, ...(folder ? { folder } : {}), limit: LIMIT };
  const stopper = new AbortController();
  $("found").replaceChildren(make("p", { class: "working" }, "Searching … ",
    make("button", { type: "button", class: "button", text: "Stop", onclick: () => stopper.abort() })),
  make("div", { class: "grid", "aria-hidden": "true" }, ...Array.from({ length: 6 }, () => make("div", { class: "hit empty" }))));
  try {
    const result = await callTool("search", given, stopper.signal);
    if (mine === latest) showFound(result, given, what);
  } catch (error) {
    if (mine !== latest) return;
    const stopped = error.name === "AbortError";
    $("found").replaceChildren(stopped ? make("p", { class: "soft", text: "Stopped." })
      : make("div", { class: "card error" }, badge({ level: "no", words: error.message })));
    announce(stopped ? "Stopped." : error.message);
  }
}

function showFound(result, details, what) {
  const fitting = result.hits.filter((hit) => hit.fits), misses = result.hits.filter((hit) => !hit.fits);
  const isByPicture = details.query === undefined;
  const pictures = (number) => (number === 1 ? "1 picture" : `${number} pictures`);
  const where = result.indexed >= result.searched ? "all from an index"
    : result.indexed ? `${result.indexed} from an index, the others looked at just now` : "looked at just now, without an index";
  const searched = `${pictures(result.searched)} searched, ${where}`;
  const words = result.searched === 0 ? "There is no picture to search"
    : fitting.length ? isByPicture ? `${fitting.length === 1 ? "1 copy" : `${fitting.length} copies`} of ${what}` : `${fitting.length === 1 ? "1 picture fits" : `${fitting.length} pictures fit`} ${what}`
    : isByPicture ? `No copy of ${what}` : `No picture fits ${what}`;
  const isNone = result.searched > 0 && fitting.length === 0;
  const nodes = [
    make("div", { class: "line summary" }, isNone ? badge({ level: "no", words }) : make("h3", { text: words }),
      result.searched > 0 && make("p", { class: "soft", text: searched })),
    fitting.length > 0 && grid(fitting, isByPicture),
    misses.length > 0 && make("h4", { text: isNone && !isByPicture ? "The best miss" : isByPicture ? "Most like it" : "Near misses" }),
  ];
  if (misses.length && isNone && !isByPicture) {
    nodes.push(grid(misses.splice(0, 1), isByPicture, "best"), misses.length > 0 && make("h4", { text: "Other misses" }));
  }
  const rest = misses.splice(MISSES);
  nodes.push(misses.length > 0 && grid(misses, isByPicture, "misses"),
    rest.length > 0 && make("details", { ontoggle: fetchAll }, make("summary", { text: `${rest.length} more that do not fit` }), grid(rest, isByPicture, "misses")),
    result.indexed === 0 && result.searched > 0 && make("p", { class: "notice" },
      ...spoken("There is no index of these pictures. `blip2tools index FOLDER` makes one, and searches become quick.")),
    doubts(result.warnings, status.warnings), make("footer", {}, codeOf("search", details, picture)));
  $("found").replaceChildren(...nodes.filter(Boolean));
  bringIntoView($("found"), 280);
  announce(`${words}. ${searched}.`);
  fetchAll();
}

function grid(hits, isByPicture, kind = "") {
  return make("ul", { class: `grid ${kind}` }, ...hits.map((one) => {
    const verdict = isByPicture
      ? one.fits ? { level: "sure", words: one.duplicate === "exact" ? "the same file" : "looks the same" } : { level: "plain", words: "likeness" }
      : verdictOfFit(one.probability);
    return make("li", {}, hit(one.path, make("span", { class: "fit", "data-level": verdict.level },
      make("span", { text: verdict.words }), make("span", { class: "number", text: (one.probability ?? one.cosine).toFixed(2) }))));
  }));
}

function hit(path, fit) {
  return make("button", { type: "button", class: "hit", "data-path": path, onclick: () => choose(path) },
    make("span", { class: "frame" }), make("span", { class: "name", text: path }), fit);
}

/** Fetch the thumbnails that are shown, a few at a time, in the order in which they are seen. */
async function fetchAll() {
  const mine = latest;
  const waiting = [...$("found").querySelectorAll("button.hit")].filter((one) => one.checkVisibility() && !one.dataset.fetched);
  for (const one of waiting) one.dataset.fetched = "yes";
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (let one = waiting.shift(); one && mine === latest; one = waiting.shift()) {
      const frame = one.querySelector(".frame");
      try {
        const image = make("img", { alt: "", src: URL.createObjectURL(await thumbnail(one.dataset.path, GRID_SIDE)) });
        image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
        frame.append(image);
      } catch (error) {
        frame.append(make("span", { class: "soft", text: error.message }));
      }
    }
  }));
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = $("query").value.trim();
  if (query) find({ query }, `“${query}”`);
});
$("copies").addEventListener("click", () => { if (picture) find({ image: picture.reference }, picture.name); });
