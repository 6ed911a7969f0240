/** Short news, seen and heard: a line at the foot of the window that goes by itself, and a live region that speaks. */

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
