// The server: calls with the token, and whether it is there at all.

import { $, announce } from "./dom.js";

const KEY = "blip2tools.token";
const BEAT_MS = 4000, LOADING_MS = 1000, AWAY_MS = 1500, PATIENCE_MS = 8000, SELDOM_MS = 30000;

/** What `vision_status` says; null before the first answer. */
export let status = null;

let isAway = false, timer = 0, asked = 0, listener = () => {};

/** An answer that is an error: one of the closed set of codes, and a sentence. */
export class Refused extends Error {
  constructor(code, message, number) { super(message); this.code = code; this.number = number; }
}

/** No answer. */
export class Away extends Error {
  constructor() { super("The server does not answer."); this.code = "away"; }
}

async function request(path, options, read) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  try {
    const response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
    if (response.ok) return await read(response);
    const body = await response.json().catch(() => ({}));
    // A late answer to an earlier token says nothing about the one that was given since.
    if (response.status === 401 && token === sessionStorage.getItem(KEY)) askForToken(Boolean(token));
    throw new Refused(body.code || "internal", body.message || `The server answered ${response.status}.`, response.status);
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") throw error;
    goAway();
    throw new Away();
  }
}

const asJson = (response) => response.json();
const posted = (body, signal) =>
  ({ method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal });

/** Call a tool by its last part below `api`. */
export async function callTool(verb, details, signal) {
  if (status && !status.loaded) {  // the first call loads the model
    asked = 0;
    again(LOADING_MS);
  }
  const result = await request(`api/${verb}`, posted(details, signal), asJson);
  if (status && !status.loaded) start(listener);
  return result;
}

export const upload = (file) =>
  request("images", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } }, asJson);

/** A picture of the server's as a blob. */
export const thumbnail = (image, side) => request("page/thumbnail", posted({ image, side }), (response) => response.blob());
export const sample = (name) => request(`page/samples/${name}`, {}, (response) => response.blob());

export const hasToken = () => sessionStorage.getItem(KEY) !== null;

// ---- the token ----

function askForToken(wrong) {
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  status = null;
  listener(null);
  $("sign-in").hidden = false;
  $("refused").hidden = !wrong;
  tell("locked", "Locked");
  $("token").focus();
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  // A header carries Latin-1 only; anything else could not be the token.
  const token = $("token").value.trim().replace(/[^\x21-\x7e]/g, "");
  $("token").value = "";
  if (token) sessionStorage.setItem(KEY, token);
  start(listener);
});

// ---- whether it is there ----

function tell(state, text) {
  $("state").dataset.state = state;
  if ($("state").textContent !== text) $("state").textContent = text;
}

function goAway() {
  if (!isAway) {
    isAway = true;
    $("away").textContent = "The server does not answer. Trying again …";
    $("away").hidden = false;
    tell("away", "No answer");
  }
  again(AWAY_MS);
}

function again(wait) {
  clearTimeout(timer);
  timer = setTimeout(beat, wait);
}

/** Look whether the server is there: `/healthz` is open to everyone, and is not logged. */
async function beat() {
  if (document.hidden) return again(BEAT_MS);
  try {
    const response = await fetch("healthz", { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!response.ok) throw new Away();
  } catch {
    return goAway();
  }
  if (isAway || !status?.loaded) return start(listener);
  return again(BEAT_MS);
}

/** Ask for the status, and then keep an eye on the server. `then` gets the status, or null while the page is locked. */
export async function start(then) {
  listener = then;
  clearTimeout(timer);
  try {
    status = await request("api/status", {}, asJson);
  } catch (error) {
    if (error.number !== 401) again(AWAY_MS);
    return;
  }
  $("sign-in").hidden = true;
  if (isAway) announce("The server is back.");
  isAway = false;
  $("away").hidden = true;
  const isLoading = status.state.startsWith("loading");
  const kind = status.loaded ? "ready" : isLoading ? "loading" : status.state.startsWith("unavailable") ? "failed" : "asleep";
  tell(kind, `${status.model}: ${status.state}${status.loaded ? ` on ${status.device}` : ""}`);
  listener(status);
  asked = status.loaded || isLoading ? 0 : asked + 1;
  again(status.loaded ? BEAT_MS : Math.min(SELDOM_MS, LOADING_MS * 1.4 ** asked));
}

document.addEventListener("visibilitychange", () => { if (!document.hidden && !$("tabs").hidden) beat(); });
