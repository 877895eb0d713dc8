// The picture that is looked at: chosen, dropped, pasted, a sample, or found by a search.

import { $, make } from "./dom.js";
import { thumbnail, upload } from "./server.js";
import { setRegion, showBoxes } from "./region.js";

const SIDE = 1024;       // of a picture that the server has to show
const SAME_SHAPE = 0.02; // by how much two ratios of the sides may differ

/**
 * {reference, name, file, handle, width, height, address, questions, texts}: `reference` is what tools take, `file` is null if
 * the server has it, `address` is a blob's.
 */
export let picture = null;

let arriving = null;  // the picture under way: a call that is asked for meanwhile waits for it
let chosen = () => {};

/** Call `then` whenever another picture is shown. */
export function onPicture(then) { chosen = then; }

export const settled = () => arriving;

function say(problem) {
  for (const id of ["problem", "problem-here"]) {
    $(id).textContent = problem || "";
    $(id).hidden = !problem;
  }
}

function sends(isSending) {
  document.body.classList.toggle("sending", isSending);
  $("sending").hidden = !isSending;
}

/** Send a file to the server and show it. */
export function take(file, { questions = [], texts = [] } = {}) {
  if (!file) return;
  follow(async () => {
    sends(true);
    const kept = await upload(file);
    await show({ ...kept, reference: kept.handle, file, name: file.name || "picture.png", questions, texts },
      URL.createObjectURL(file));
  });
}

/** Show a picture that the server found in a folder. */
export function openPath(path) {
  return follow(async () => {
    const address = URL.createObjectURL(await thumbnail(path, SIDE));
    await show({ reference: path, file: null, name: path, handle: null, questions: [], texts: [] }, address);
  });
}

function follow(work) {
  say("");
  const mine = arriving = work()
    .catch((error) => say(error.message))
    .finally(() => {
      sends(false);
      if (arriving === mine) arriving = null;
    });
  return mine;
}

/** Show a picture that was shown before, as a result has it. */
export function showAgain(one) {
  if (picture === one) return;
  picture = one;
  $("preview").src = one.address;
  facts();
  chosen(one, true);
}

async function show(one, address) {
  const image = $("preview"), before = picture;
  image.src = address;
  const isSeen = await image.decode().then(() => true, () => false);
  const ratio = image.naturalWidth / image.naturalHeight;
  // A browser cannot show every format, and turns fewer pictures than the server does; parts are counted on the server's.
  if (one.file && (!isSeen || Math.abs(ratio / (one.width / one.height) - 1) > SAME_SHAPE)) {
    URL.revokeObjectURL(address);
    try {
      address = URL.createObjectURL(await thumbnail(one.reference, SIDE));
    } catch (error) {
      if (before) image.src = before.address;
      throw error;
    }
    image.src = address;
    await image.decode().catch(() => {});
  }
  picture = { ...one, address, width: one.width ?? image.naturalWidth, height: one.height ?? image.naturalHeight };
  facts();
  setRegion(null);
  chosen(picture, false);
}

function facts() {
  const { name, handle, width, height } = picture;
  $("stage").style.setProperty("--ratio", width / height);
  $("stage").style.setProperty("--natural", `${width}px`);
  showBoxes([]);
  $("about").replaceChildren(make("span", { class: "name", text: name }),
    handle ? `, ${width} × ${height} px, ` : "", handle ? make("code", { text: handle }) : "");
}

/** Send the file once more where the server no longer has it: it keeps the pictures seen last only. */
export const sendAgain = (one) => upload(one.file);

// ---- the ways in ----

for (const id of ["file", "other"]) {
  $(id).addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); $(id).click(); }
  });
  $(id).addEventListener("change", () => { take($(id).files[0]); $(id).value = ""; });
}

const isOpen = () => !$("tabs").hidden;

document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
  if (file && isOpen()) { event.preventDefault(); take(file); }
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); document.body.classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (isOpen()) take(event.dataTransfer.files[0]);
});
