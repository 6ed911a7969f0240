/** What a person agrees to before their portrait is sent: the text as it is now, and a box that they tick themselves. */

import { call } from "./api.js";
import { change, draft } from "./draft.js";
import { part } from "./template.js";

/** Show today's text; to be called again when the API says that it was another. */
export async function askConsent(root, signal) {
  const { version, text } = await call("GET", "/consent", { signal });
  part(root, "consent-text").textContent = text;
  const box = part(root, "consent");
  // Who goes on to another style in the same visit has read it; who meets other words has not.
  box.checked = draft.consent === version;
  box.onchange = () => change({ consent: box.checked ? version : null });
}
