/** What the person is about to ask for. It outlives views and languages, and its key outlives an answer that was lost. */

import { call, Refused } from "./api.js";

const empty = { file: null, preview: null, again: null, style: null, role: "", consent: null };

/**
 * `file` is the portrait, `preview` an address of its picture (or null where the browser cannot show it); or `again` is
 * the earlier job whose portrait is used once more. `consent` is the version of the text that was agreed to.
 */
export const draft = { ...empty, key: null };

let sending = null;

/** Change what is asked for; it is then another request, under another key. */
export function change(changes) {
  if (draft.preview && "preview" in changes) URL.revokeObjectURL(draft.preview);
  Object.assign(draft, changes, { key: null });
}

export const forget = () => change(empty);

/**
 * Ask for the photos: the new job, with `remaining_credits`. A second click while the first is on its way is the first.
 * When the answer was lost, the next try is the same request to the API, which charges it once.
 */
export function submit() {
  sending ??= send().finally(() => (sending = null));
  return sending;
}

async function send() {
  draft.key ??= crypto.randomUUID();
  const form = new FormData();
  if (draft.again) form.append("portrait_of", draft.again.id);
  else form.append("image", draft.file);
  form.append("style", draft.style);
  if (draft.role) form.append("role", draft.role);
  form.append("consent", draft.consent);
  try {
    const job = await call("POST", "/jobs", { form, headers: { "Idempotency-Key": draft.key } });
    draft.key = null;
    return job;
  } catch (error) {
    const answered = error instanceof Refused && error.status < 500;
    if (answered) draft.key = null;
    throw error;
  }
}
