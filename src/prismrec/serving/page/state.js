/**
 * What the page is about: the history and the dials; as values, and as the part of the address after "#".
 *
 * The address holds ids, never titles: what a link shows comes from the service, not from who made the link.
 */

/** @typedef {{history: string[], interests: number, diversity: number, novelty: number, model: string}} State */

const MAX_HISTORY = 1000; // of a link; its address should stay one that people can send
const DIALS = {
  interests: { start: 5, from: 1, to: 12 },
  diversity: { start: 0, from: 0, to: 1 },
  novelty: { start: 0, from: 0, to: 5 },
};

/**
 * @param {string} hash such as "#item=1&item=3114&diversity=0.3"; what makes no sense is left out
 * @returns {State}
 */
export function read(hash) {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const history = [...new Set(fields.getAll("item").filter(Boolean))].slice(-MAX_HISTORY);
  const dials = Object.entries(DIALS).map(([name, { start, from, to }]) => {
    const value = Number.parseFloat(fields.get(name) ?? "");
    return [name, Number.isFinite(value) ? Math.min(to, Math.max(from, value)) : start];
  });
  const state = { history, model: fields.get("model") ?? "", ...Object.fromEntries(dials) };
  return { ...state, interests: Math.round(state.interests) };
}

/**
 * @param {State} state
 * @returns {string} the shortest hash that `read` turns into the same state
 */
export function write(state) {
  const fields = new URLSearchParams(state.history.map((id) => ["item", id]));
  for (const [name, { start }] of Object.entries(DIALS)) {
    if (state[name] !== start) fields.set(name, String(state[name]));
  }
  if (state.model) fields.set("model", state.model);
  return `#${fields}`;
}

/**
 * @param {State} state
 * @returns {object} the body of `POST /recommend`
 */
export function request(state) {
  return {
    history: state.history,
    k: 10,
    num_interests: state.interests,
    diversity: state.diversity,
    novelty: state.novelty,
    model: state.model || null,
  };
}

/** The item becomes the newest; one that is there already moves. */
export function added(history, id) {
  return [...removed(history, id), id];
}

export function removed(history, id) {
  return history.filter((other) => other !== id);
}

/**
 * @param {string[]} history
 * @param {string} id
 * @param {number} steps towards the newest; negative towards the oldest
 */
export function moved(history, id, steps) {
  const others = removed(history, id);
  const place = Math.min(others.length, Math.max(0, history.indexOf(id) + steps));
  return [...others.slice(0, place), id, ...others.slice(place)];
}
