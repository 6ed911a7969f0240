/** What was made before, newest first. */

import { call } from "./api.js";
import { catalogue } from "./catalogue.js";
import { count, day, told, word } from "./language.js";
import { attempt } from "./notice.js";
import { hasCredits } from "./session.js";
import { instance, part } from "./template.js";

const AT_ONCE = 12;

export async function show(stage, _place, signal) {
  const [styles, first] = await Promise.all([catalogue(), page(null, signal)]);
  const view = instance("history");
  const root = view.firstElementChild;
  const list = part(root, "jobs");
  const more = part(root, "more");
  stage.replaceChildren(view);
  part(root, "empty").hidden = first.jobs.length > 0;

  let cursor = add(first);
  more.addEventListener("click", () =>
    attempt(async () => {
      const at = list.children.length;
      cursor = add(await page(cursor, signal));
      list.children[at].querySelector("a").focus();
    }),
  );

  function add({ jobs, next_cursor, remaining_credits }) {
    hasCredits(remaining_credits);
    list.append(...jobs.map((job) => entry(job, styles)));
    more.hidden = !next_cursor;
    return next_cursor;
  }
}

function page(cursor, signal) {
  const query = new URLSearchParams({ limit: AT_ONCE, ...(cursor && { cursor }) });
  return call("GET", `/jobs?${query}`, { signal });
}

function entry(job, styles) {
  const item = instance("past-job").firstElementChild;
  const style = told(styles.get(job.style), "label");
  part(item, "open").href = `#/jobs/${job.id}`;
  part(item, "style").textContent = style;
  part(item, "day").textContent = day(job.created_at);
  part(item, "day").dateTime = job.created_at;
  part(item, "end").textContent = word(`history.${job.status}`, { count: count(job.progress.done) });
  const prints = part(item, "prints");
  for (const photo of job.photos) {
    const place = prints.appendChild(document.createElement("span"));
    place.classList.toggle("chosen", photo.id === job.selected_photo_id);
    if (!photo.url) continue;
    const picture = place.appendChild(new Image());
    Object.assign(picture, { loading: "lazy", decoding: "async", src: photo.thumbnail_url ?? photo.url });
    picture.alt = word("photo.alt", { style, number: photo.slot + 1 });
  }
  return item;
}
