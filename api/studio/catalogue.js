/** The styles, asked for once: names in both languages and a sample picture each. */

import { call } from "./api.js";
import { told, word } from "./language.js";
import { instance, part } from "./template.js";

let asked = null;

/** Every style by its key. */
export async function catalogue() {
  asked ??= call("GET", "/styles").then((entries) => new Map(entries.map((entry) => [entry.key, entry])));
  try {
    return await asked;
  } catch (error) {
    asked = null;
    throw error;
  }
}

/** What a style is called. */
export const styleName = async (key) => told((await catalogue()).get(key), "label");

/** Fill the list with one picture to choose per style; `chosen` is called with the key. */
export function stylePictures(list, styles, current, chosen) {
  for (const entry of styles.values()) {
    const card = instance("style-card");
    const input = card.querySelector("input");
    input.value = entry.key;
    input.checked = entry.key === current;
    input.addEventListener("change", () => chosen(entry.key));
    const sample = card.querySelector("img");
    sample.src = entry.sample_url;
    sample.alt = word("style.sample", { style: told(entry, "label") });
    part(card, "name").textContent = told(entry, "label");
    part(card, "description").textContent = told(entry, "description");
    list.append(card);
  }
}
