/** One photo large, and the others a key, a swipe or a touch away. */

import { word } from "./language.js";
import { pinch } from "./pinch.js";
import { instance, part } from "./template.js";

/**
 * Open it over the page until it is closed or `signal` ends. `turned` is called with the photo to show next, `chosen` with the one that was chosen, `closed`
 * when the person has seen enough. Returns `show(job, photo)` and `close()`.
 */
export function largeView(style, signal, { turned, chosen, closed }) {
  const dialog = instance("large").firstElementChild;
  const picture = part(dialog, "picture");
  let photos = [];
  let shown = null;

  const turn = (by) => {
    const at = photos.findIndex((photo) => photo.id === shown.id);
    turned(photos[(at + by + photos.length) % photos.length]);
  };
  const flat = pinch(part(dialog, "stage"), picture, turn);
  part(dialog, "previous").addEventListener("click", () => turn(-1));
  part(dialog, "next").addEventListener("click", () => turn(1));
  part(dialog, "choose").addEventListener("click", () => chosen(shown));
  part(dialog, "close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    closed();
  });
  signal.addEventListener("abort", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();

  function show(job, photo) {
    photos = job.photos.filter(({ url }) => url);
    const number = photo.slot + 1;
    if (shown?.id !== photo.id) {
      flat();
      Object.assign(picture, { src: photo.url, width: photo.width, height: photo.height });
      picture.alt = word("photo.alt", { style, number });
    }
    shown = photo;
    const choice = job.selected_photo_id === photo.id;
    part(dialog, "position").textContent = word("photo.position", { number, total: job.photos.length });
    part(dialog, "choose").textContent = word(choice ? "photo.chosen" : "photo.choose");
    part(dialog, "choose").setAttribute("aria-pressed", choice);
    part(dialog, "download").href = `${photo.url}?download=true`;
    for (const name of ["previous", "next"]) part(dialog, name).hidden = photos.length < 2;
  }

  return { show, close: () => dialog.close() };
}
