/**
 * The explorer: pick what you know, see it split into interests, follow a beam.
 *
 * One way the data goes: an action changes the state, the state goes into the address and, after a short pause,
 * to the service; the answer is drawn. The old answer stays until the new one is there, and answers to questions
 * that are no longer the newest are dropped.
 */

import { describeModel, itemsById, newest, recommend, useKey } from "./api.js";
import { Beams, percent } from "./beams.js";
import { byId, make } from "./dom.js";
import { History } from "./history.js";
import { Search } from "./search.js";
import { added, moved, read, removed, request, write } from "./state.js";

const PAUSE_MS = 160; // after the last movement of a dial
const SLOW_MS = 300; // only waiting that people would notice is shown
const RETRIES_MS = [2_000, 4_000, 8_000, 16_000, 30_000];
const IDS_AT_ONCE = 100;
const DIALS = ["interests", "diversity", "novelty"];

/** Titles of all items met so far. @type {Map<string, string>} */
const titles = new Map();
const newestQuestion = newest();
const newestStart = newest();
const beams = new Beams(add);
const history = new History({
  move: (id, steps) => setHistory(moved(state.history, id, steps)),
  remove: (id) => setHistory(removed(state.history, id)),
});
new Search(add, (id) => state.history.includes(id), tell);

let state = read(location.hash);
let answer = null;
let failures = 0;
let pause = 0;
let retry = 0;
let slow = 0;

/** @param {string} text for those who hear the page */
function tell(text) {
  byId("news").textContent = text;
}

/** @param {{item_id: string, title: string}} item becomes the newest of the history */
function add({ item_id: id, title }) {
  titles.set(id, title);
  setHistory(added(state.history, id));
}

function setHistory(ids) {
  state = { ...state, history: ids };
  window.history.pushState(null, "", write(state));
  showState();
  ask();
}

/** A dial or the model has moved; the address changes without a step in the browser's history. */
function turn() {
  const dials = Object.fromEntries(DIALS.map((name) => [name, Number(byId(name).value)]));
  state = { ...state, ...dials, model: byId("model").value };
  window.history.replaceState(null, "", write(state));
  showDials();
  clearTimeout(pause);
  pause = setTimeout(ask, PAUSE_MS);
}

/** Ask for the state's recommendations, and draw them if they are still wanted when they come. */
async function ask() {
  clearTimeout(pause);
  clearTimeout(retry);
  const signal = newestQuestion();
  wait();
  try {
    const next = await recommend(request(state), signal);
    if (signal.aborted) return;
    answer = next;
    learn(answer);
    waited();
    recovered();
    showAnswer();
  } catch (error) {
    if (signal.aborted) return;
    failed(error);
  }
}

/** Show that an answer is on its way, if it takes longer than a moment. */
function wait() {
  clearTimeout(slow);
  slow = setTimeout(() => byId("stage").setAttribute("aria-busy", "true"), SLOW_MS);
}

function waited() {
  clearTimeout(slow);
  byId("stage").setAttribute("aria-busy", "false");
}

function learn({ items, interests }) {
  const all = [items, ...interests.flatMap((interest) => [interest.items, interest.reasons])].flat();
  for (const { item_id: id, title } of all) titles.set(id, title);
}

/** Show the state: dials, history, and what to do when there is none. */
function showState() {
  for (const name of DIALS) byId(name).value = String(state[name]);
  byId("model").value = state.model;
  showDials();
  byId("stage-heading").textContent = state.history.length ? "Your interests" : "Popular with everybody";
  byId("clear").hidden = !state.history.length;
  byId("welcome").hidden = state.history.length > 0;
  byId("together-section").hidden = !state.history.length; // what is popular is one list already
  const isOfThisHistory = answer && state.history.length;
  const unknown = new Set(isOfThisHistory ? answer.unknown_items : []);
  const reasons = isOfThisHistory ? beams.reasons(answer) : new Map();
  history.show(state.history, (id) => titles.get(id) ?? id, unknown, reasons);
}

function showDials() {
  for (const name of DIALS) byId(`${name}-value`).textContent = String(state[name]);
}

function showAnswer() {
  beams.show(answer);
  byId("stage-note").textContent = answer.note ?? `as ${answer.model} sees them`;
  const { model, dictionary, data } = answer.versions;
  byId("versions").textContent = `model ${model}, ${dictionary ? `dictionary ${dictionary}, ` : ""}data ${data}`;
  showState();
  const [strongest] = answer.interests;
  const count = answer.interests.length;
  if (strongest) {
    tell(`${count} ${count === 1 ? "interest" : "interests"}. Strongest: ${strongest.label}, ${percent(strongest.weight)}.`);
  }
}

/** Say what is wrong and how to go on; what passes by itself is tried again, less and less often. */
function failed(error) {
  waited();
  byId("error-what").textContent = error.message;
  const pauseMs = error.kind === "passing" ? RETRIES_MS[Math.min(failures, RETRIES_MS.length - 1)] : 0;
  byId("error-mend").textContent = `${error.mend ?? ""}${pauseMs ? ` Next try in ${pauseMs / 1000} seconds.` : ""}`;
  byId("key-form").hidden = error.kind !== "key";
  byId("retry").hidden = error.kind === "key";
  byId("error").hidden = false;
  failures += 1;
  clearTimeout(retry);
  if (pauseMs) retry = setTimeout(begin, pauseMs);
}

function recovered() {
  failures = 0;
  byId("error").hidden = true;
}

/** Titles of ids that came with a link: the service knows them, the link does not. */
async function learnTitles(signal) {
  const missing = state.history.filter((id) => !titles.has(id));
  for (let start = 0; start < missing.length; start += IDS_AT_ONCE) {
    const items = await itemsById(missing.slice(start, start + IDS_AT_ONCE), signal);
    for (const { item_id: id, title } of items) titles.set(id, title);
  }
}

async function learnModels(signal) {
  const { models, default_model: standard } = await describeModel(signal);
  const others = [...new Set([...models.filter((name) => name !== standard), state.model])].filter(Boolean);
  const option = (value, text) => make("option", { value }, text);
  byId("model").replaceChildren(
    option("", `${standard} (the default)`),
    ...others.filter((name) => name !== standard).map((name) => option(name, name)),
  );
}

/** Everything that the page needs at its start, after a failure, or when the address changes. */
async function begin() {
  clearTimeout(retry);
  const signal = newestStart();
  state = read(location.hash);
  showState();
  wait();
  try {
    await Promise.all([learnTitles(signal), learnModels(signal)]);
    if (signal.aborted) return;
    showState();
    ask();
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

/** A few popular titles, far enough apart in the list that they are not all alike. */
function showExample() {
  const popular = answer?.items.filter((_, place) => place % 2 === 0).slice(0, 5) ?? [];
  setHistory(popular.map(({ item_id: id }) => id));
  byId("stage").focus({ preventScroll: true });
}

async function share() {
  try {
    await navigator.clipboard.writeText(location.href);
    byId("share").textContent = "Copied";
    tell("Link copied.");
  } catch {
    // Browsers keep the clipboard to secure pages and to people who allow it.
    byId("share").textContent = "Copy the address";
  }
  setTimeout(() => { byId("share").textContent = "Copy link"; }, 2_000);
}

for (const name of DIALS) byId(name).addEventListener("input", turn);
byId("model").addEventListener("change", turn);
byId("dials").addEventListener("submit", (event) => event.preventDefault());
byId("clear").addEventListener("click", () => { setHistory([]); byId("search").focus(); });
byId("example").addEventListener("click", showExample);
byId("share").addEventListener("click", share);
byId("retry").addEventListener("click", begin);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  begin();
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address after "#" is the state
  byId("stage").focus();
});
window.addEventListener("popstate", begin);
begin();
