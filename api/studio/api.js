/** One call to the API: its answer, or what it refuses, or the news that it cannot be reached. */

import contract from "./contract.js";
import { language } from "./language.js";

/** The API has answered, with a problem; `detail` is a sentence for people. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail);
    Object.assign(this, { status, code: problem.code, detail: problem.detail });
  }
}

/** Nobody answered. Whether the call was heard is not known. */
export class Away extends Error {}

/** What goes on when a call says that nobody is signed in. */
export const signedOut = new EventTarget();

export async function call(method, path, { json, form, headers = {}, signal } = {}) {
  const { body } = await answer(method, path, { json, form, headers, signal });
  return body;
}

/** The same with the answer's headers; `body` is null where the answer has none (204, 304). */
export async function answer(method, path, { json, form, headers = {}, signal } = {}) {
  const all = { "Accept-Language": language(), ...headers };
  if (json !== undefined) all["Content-Type"] = "application/json";
  let response, text;
  try {
    response = await fetch(path, { method, headers: all, body: form ?? JSON.stringify(json), signal });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Away(error.message);
  }
  if (response.ok || response.status === 304)
    return { status: response.status, headers: response.headers, body: text ? JSON.parse(text) : null };
  if (response.status === 401) signedOut.dispatchEvent(new Event("signed-out"));
  throw new Refused(response.status, problemOf(text));
}

/** The API's sentence for a code, for what the page sees before it asks. */
export const sentence = (code) => contract.problems[code][language()];

function problemOf(text) {
  try {
    const problem = JSON.parse(text);
    if (problem.code && problem.detail) return problem;
  } catch {
    // A proxy's own page.
  }
  return { code: "unavailable", detail: sentence("unavailable") };
}
