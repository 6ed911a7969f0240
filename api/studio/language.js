/** Which language the page speaks: the switch's, or at first the browser's. */

import { words } from "./words.js";

const KEPT_AS = "cuggu.language";

let spoken = kept() ?? preferred();

export const language = () => spoken;

/** A sentence, with its `{names}` filled in. */
export function word(key, values = {}) {
  return words[spoken][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** One to four, as one says it of photos; nothing for none. */
export const count = (photos) => (photos ? word(`count.${photos}`) : "");

export const hasWord = (key) => key in words[spoken];

/** What a row of the catalogue calls itself, such as `label` or `description`. */
export const told = (entry, field) => entry[`${field}_${spoken}`];

export function speak(other) {
  spoken = other;
  try {
    localStorage.setItem(KEPT_AS, spoken);
  } catch {
    // A browser that keeps nothing: then for this visit.
  }
}

/** Give every element below `root` its words: `data-word` as its text, `data-word-label` as its accessible name. */
export function fillWords(root) {
  for (const element of root.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  for (const element of root.querySelectorAll("[data-word-label]"))
    element.setAttribute("aria-label", word(element.dataset.wordLabel));
}

export function day(time) {
  return new Intl.DateTimeFormat(spoken, { dateStyle: "long" }).format(new Date(time));
}

function kept() {
  try {
    const name = localStorage.getItem(KEPT_AS);
    return name in words ? name : null;
  } catch {
    return null;
  }
}

function preferred() {
  const names = navigator.languages.map((tag) => tag.split("-")[0].toLowerCase());
  return names.find((name) => name in words) ?? "ko";
}
