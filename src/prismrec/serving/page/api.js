/**
 * The service's API as this page uses it, and what to tell people when it fails.
 *
 * All addresses are relative, so that the page also works behind a path prefix.
 */

const PATIENCE_MS = 15_000;

/** The key of services that ask for one; kept in memory only, so that nothing of it stays in the browser. */
let apiKey = "";

/** @param {string} key sent with every request from now on */
export function useKey(key) {
  apiKey = key;
}

/** A failed request: `message` says what went wrong, `mend` what to do, `kind` how the page goes on. */
export class ServiceError extends Error {
  /**
   * @param {string} message
   * @param {string} mend
   * @param {"passing" | "key" | "refused"} kind worth another try, needs a key, or wrong until something changes
   */
  constructor(message, mend, kind) {
    super(message);
    this.mend = mend;
    this.kind = kind;
  }
}

/**
 * Give out abort signals, of which only the newest is not aborted: late answers to old questions are dropped.
 * @returns {() => AbortSignal}
 */
export function newest() {
  let controller = new AbortController();
  return () => {
    controller.abort();
    controller = new AbortController();
    return controller.signal;
  };
}

/**
 * @param {object} request as `POST /recommend` takes it
 * @param {AbortSignal} signal
 */
export function recommend(request, signal) {
  return ask("recommend", signal, { method: "POST", body: JSON.stringify(request) });
}

/**
 * @param {string} query a part of a title
 * @param {AbortSignal} signal
 * @returns {Promise<{item_id: string, title: string}[]>}
 */
export async function searchItems(query, signal) {
  return (await ask(`items?${new URLSearchParams({ query, limit: "12" })}`, signal)).items;
}

/**
 * @param {string[]} ids at most 100
 * @param {AbortSignal} signal
 * @returns {Promise<{item_id: string, title: string}[]>} those of them that the catalogue knows
 */
export async function itemsById(ids, signal) {
  return (await ask(`items?${new URLSearchParams(ids.map((id) => ["id", id]))}`, signal)).items;
}

/** @param {AbortSignal} signal */
export function describeModel(signal) {
  return ask("model", signal);
}

/**
 * @param {string} path
 * @param {AbortSignal} signal
 * @param {RequestInit} options
 * @throws {ServiceError} it did not answer, or not with JSON and success
 * @throws {DOMException} AbortError: `signal` was aborted, a newer question has been asked
 */
async function ask(path, signal, options = {}) {
  const headers = { "Content-Type": "application/json", ...(apiKey && { "X-API-Key": apiKey }) };
  const patience = AbortSignal.timeout(PATIENCE_MS);
  try {
    const answer = await fetch(path, { ...options, headers, signal: AbortSignal.any([signal, patience]) });
    if (answer.ok) return await answer.json();
    throw await refusal(answer);
  } catch (error) {
    if (error instanceof ServiceError || signal.aborted) throw error;
    if (patience.aborted) throw new ServiceError("The service is taking too long.", "", "passing");
    throw new ServiceError("The service does not answer.", "Is it running?", "passing");
  }
}

/** @param {Response} answer of a status that is no success */
async function refusal(answer) {
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401 || answer.status === 403) {
    return new ServiceError("This service asks for a key.", "", "key");
  }
  if (answer.status === 429 || answer.status === 503) {
    return new ServiceError("The service is busy.", "", "passing");
  }
  if (answer.status >= 500) return new ServiceError("The service failed.", `It answered ${answer.status}.`, "passing");
  return new ServiceError("The service refused this.", body.error ?? `It answered ${answer.status}.`, "refused");
}
