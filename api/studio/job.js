/** One job from its first second to the light table: what happens, what came of it, and what can be done with it. */

import { call } from "./api.js";
import { go, replace } from "./address.js";
import { catalogue } from "./catalogue.js";
import { confirmed } from "./confirmation.js";
import { follow, isActive } from "./following.js";
import { frames } from "./frames.js";
import { count, day, told, word } from "./language.js";
import { largeView } from "./large-view.js";
import { announce, attempt, entitle, notice } from "./notice.js";
import { estimate } from "./remaining.js";
import { refresh } from "./session.js";
import { instance, part } from "./template.js";

const TICK_MS = 500;
/** Ends whose sentence advises already, or that the person wished for. */
const SAYS_WHAT_TO_DO = new Set(["moderated", "bad_input", "canceled"]);

export async function show(stage, place, signal) {
  const [styles, first] = await Promise.all([catalogue(), call("GET", `/jobs/${place.id}`, { signal })]);
  const style = told(styles.get(first.style), "label");
  const view = instance("job");
  const root = view.firstElementChild;
  let job = first;
  let expected = estimate(job);
  let large = null;

  part(root, "style").textContent = style;
  part(root, "day").textContent = day(job.created_at);
  part(root, "day").dateTime = job.created_at;
  const fill = frames(part(root, "frames"), job, style, choose);
  actions();
  render();
  stage.replaceChildren(view);
  if (place.photo) open(place.photo, () => replace(`#/jobs/${job.id}`));
  if (isActive(job)) live();
  return { moved };

  function render() {
    const { done } = job.progress;
    const active = isActive(job);
    const there = job.photos.some(({ url }) => url);
    const aged = job.photos.some(({ gone }) => gone) && job.photos_deleted_at;
    part(root, "title").textContent = word(`job.title.${job.status}`, { count: count(done) });
    part(root, "remaining").hidden = part(root, "leave").hidden = part(root, "cancel").hidden = !active;
    part(root, "compare").hidden = active || !there;
    part(root, "aged").hidden = !aged;
    if (aged) part(root, "aged").textContent = word("job.aged", { day: day(aged) });
    part(root, "frames").hidden = !active && done === 0;
    part(root, "failure").hidden = !job.error;
    if (job.error) tellFailure();
    const portrait = part(root, "portrait");
    portrait.hidden = !job.portrait_url;
    if (job.portrait_url) Object.assign(portrait, { src: job.portrait_url, alt: word("job.portrait") });
    part(root, "download-all").hidden = active || !there;
    part(root, "download-all").href = `/jobs/${job.id}/photos.zip`;
    part(root, "again").hidden = active || !job.portrait_url;
    part(root, "again").href = `#/again/${job.id}`;
    part(root, "again").classList.toggle("quiet", there);
    part(root, "new").hidden = active || Boolean(job.portrait_url);
    part(root, "delete").hidden = active;
    fill(job);
  }

  function tellFailure() {
    part(root, "reason").textContent = `${job.error.detail}.`;
    part(root, "cost").textContent = word(job.error.refunded ? "job.cost.refunded" : "job.cost.kept");
    part(root, "cost").classList.toggle("good", job.error.refunded);
    part(root, "next").textContent = word(job.progress.done > 0 ? "job.partial" : "job.next.failed");
    part(root, "next").hidden = job.progress.done === 0 && SAYS_WHAT_TO_DO.has(job.error.code);
  }

  function live() {
    const tick = () => {
      part(root, "remaining").textContent = expected.told();
      for (const bar of root.querySelectorAll("[data-status=GENERATING] progress")) {
        const share = expected.share();
        if (share === null) bar.removeAttribute("value");
        else bar.value = share;
      }
    };
    tick();
    const ticking = setInterval(tick, TICK_MS);
    signal.addEventListener("abort", () => clearInterval(ticking));
    attempt(() => follow(job.id, changed, connected, signal)).finally(() => clearInterval(ticking));
  }

  function changed(become) {
    const before = job;
    job = become(job);
    // Once it takes longer than others did, nothing new is known; what was known still tells that it is late.
    if (job.eta_seconds !== null && job.eta_seconds !== before.eta_seconds) expected = estimate(job);
    render();
    const news = job.photos.filter(({ id, url }) => url && !before.photos.some((old) => old.id === id && old.url));
    if (news.length) {
      const each = news.map(({ slot }) => word("frame.news", { number: slot + 1 }));
      announce([...each, word("job.progress", { count: count(job.progress.done) })].join(" "));
    }
    if (isActive(before) && !isActive(job)) ended();
  }

  function ended() {
    const title = word(`job.title.${job.status}`, { count: count(job.progress.done) });
    entitle(title);
    announce(`${title}. ${job.error?.detail ?? word("job.compare")}`);
    refresh().catch(() => {}); // the count of credits: it is looked at again soon
  }

  function connected(well) {
    part(root, "lost").hidden = well;
  }

  function actions() {
    part(root, "cancel").addEventListener("click", async () => {
      if (await confirmed("job.cancel", signal)) await attempt(async () => changed(await now("POST", "cancel")));
    });
    part(root, "delete").addEventListener("click", async () => {
      if (!(await confirmed("job.delete", signal))) return;
      await attempt(async () => {
        await call("DELETE", `/jobs/${job.id}`);
        replace("#/history");
        notice(word("job.deleted"));
      });
    });
  }

  async function now(method, what, json) {
    const body = await call(method, `/jobs/${job.id}/${what}`, { json });
    return () => body;
  }

  async function choose(photo) {
    await attempt(async () => {
      changed(await now("PUT", "selection", { photo_id: photo.id }));
      announce(word("photo.chosen.news", { number: photo.slot + 1 }));
      large?.show(job, photo);
    });
  }

  /** The same job under another address: a photo was opened, turned or closed. */
  function moved({ photo }) {
    if (photo) open(photo, () => history.back());
    else large?.close();
  }

  /** `leave` takes the photo out of the address again. */
  function open(number, leave) {
    const photo = job.photos[number - 1];
    if (!photo.url) return;
    large ??= largeView(style, signal, {
      turned: ({ slot }) => replace(`#/jobs/${job.id}/${slot + 1}`),
      chosen: choose,
      closed: () => {
        large = null;
        if (!signal.aborted && location.hash !== `#/jobs/${job.id}`) leave();
      },
    });
    large.show(job, photo);
  }
}
