/** Instances of the templates in `index.html`, in the language of the moment. */

import { fillWords } from "./language.js";

export function instance(id) {
  const fragment = document.getElementById(id).content.cloneNode(true);
  fillWords(fragment);
  return fragment;
}

/** The element that a template calls by this name. */
export const part = (root, name) => root.querySelector(`[data-part="${name}"]`);
