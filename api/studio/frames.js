/** The four frames of a job: empty, in the making, and then the photos themselves, laid out to be compared. */

import { word } from "./language.js";
import { instance, part } from "./template.js";

/** The four frames in `list`; `chosen` is called with a photo that was chosen. Returns what shows a changed job. */
export function frames(list, job, style, chosen) {
  const all = job.photos.map((photo) => {
    const item = instance("frame").firstElementChild;
    item.setAttribute("aria-label", word("frame.label", { number: photo.slot + 1 }));
    part(item, "numeral").textContent = ["i", "ii", "iii", "iv"][photo.slot];
    part(item, "choose").addEventListener("click", () => chosen(photo));
    list.append(item);
    return item;
  });
  return (changed) => changed.photos.forEach((photo, index) => fill(all[index], changed, photo, style));
}

function fill(item, job, photo, style) {
  const number = photo.slot + 1;
  const stored = Boolean(photo.url);
  const choice = job.selected_photo_id === photo.id;
  item.dataset.status = photo.status;
  item.classList.toggle("chosen", choice);
  part(item, "state").textContent = word(photo.gone ? "frame.gone" : choice ? "photo.chosen" : `frame.${photo.status}`);
  part(item, "state").hidden = stored && !choice;
  const bar = part(item, "progress");
  bar.hidden = photo.status !== "PENDING" && photo.status !== "GENERATING";
  bar.setAttribute("aria-label", word("frame.label", { number }));
  if (photo.status === "PENDING") bar.value = 0;
  const choose = part(item, "choose");
  choose.hidden = !stored;
  choose.setAttribute("aria-pressed", choice);
  choose.setAttribute("aria-label", word("photo.choose.label", { number }));
  if (stored && !item.photo) hang(item, job, photo, word("photo.alt", { style, number }));
}

/** Into the frame that has been waiting for it, so that nothing moves. */
async function hang(item, job, photo, alt) {
  item.photo = photo;
  const number = photo.slot + 1;
  const link = part(item, "open");
  link.href = `#/jobs/${job.id}/${number}`;
  link.setAttribute("aria-label", word("frame.open", { number }));
  const picture = part(item, "picture");
  Object.assign(picture, { src: photo.url, alt, width: photo.width, height: photo.height, hidden: false });
  try {
    await picture.decode();
  } catch {
    // It fades in when it is there; or its alternative text stands in for it.
  }
  picture.classList.add("developed");
}
