/** Short news, seen and heard: a line at the foot of the window, a live region that speaks, the name of the tab. */

import { Away, Refused } from "./api.js";
import { word } from "./language.js";

const SHOWN_MS = 6000;

let going;

/** Show it and let a screen reader say it. */
export function notice(text) {
  const line = document.getElementById("notice");
  line.textContent = text;
  line.classList.add("shown");
  clearTimeout(going);
  going = setTimeout(() => line.classList.remove("shown"), SHOWN_MS);
}

/** For those who cannot see what the others see happen. */
export function announce(text) {
  document.getElementById("announcement").textContent = text;
}

/** What the tab is called, where a person may look while they do something else. */
export function entitle(heading) {
  document.title = `${heading.replace("\n", " ")} · Cuggu`;
}

/** Do something that may be refused, and say so if it is. */
export async function attempt(what) {
  try {
    await what();
  } catch (error) {
    if (error instanceof Away) notice(word("away.text"));
    else if (error instanceof Refused) notice(error.detail);
    else throw error;
  }
}
