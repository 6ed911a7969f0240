/** A job as it changes: by its events as they happen, or, where those do not come through, by long polls. */

import { answer, Away } from "./api.js";

const PHOTO_EVENTS = ["photo.started", "photo.retried", "photo.stored", "photo.failed"];
const END_EVENTS = ["job.completed", "job.partial", "job.failed", "job.canceled"];
const POLL_SECONDS = 25;
const AGAIN_MS = 2000;

export const isActive = (job) => job.status === "QUEUED" || job.status === "PROCESSING";

/**
 * Call `changed` for every change, with a function from the job as it was to the job as it is, until the job has ended
 * or `signal` ends; and `connected` with whether news come. Rejects with what the API refuses.
 */
export async function follow(id, changed, connected, signal) {
  const ended = await byEvents(id, changed, connected, signal);
  if (!ended && !signal.aborted) await byPolls(id, changed, connected, signal);
}

/** Resolves to whether the job has ended; false where the events do not come through. */
function byEvents(id, changed, connected, signal) {
  return new Promise((resolve) => {
    // It names itself the last event it saw when it connects anew, so nothing is missed.
    const events = new EventSource(`/jobs/${id}/events`);
    const leave = (ended) => {
      events.close();
      resolve(ended);
    };
    signal.addEventListener("abort", () => leave(false));
    events.addEventListener("open", () => connected(true));
    events.addEventListener("error", () => {
      connected(false);
      if (events.readyState === EventSource.CLOSED) leave(false);
    });
    for (const name of PHOTO_EVENTS)
      events.addEventListener(name, ({ data }) => changed((job) => withPhoto(job, JSON.parse(data))));
    for (const name of END_EVENTS)
      events.addEventListener(name, () => {
        events.close();
        // The event speaks the browser's language, and the page perhaps another.
        byPolls(id, changed, connected, signal).then(() => resolve(true), () => resolve(false));
      });
  });
}

async function byPolls(id, changed, connected, signal) {
  let tag = null;
  for (;;) {
    try {
      const headers = tag ? { "If-None-Match": tag } : {};
      const wait = tag ? POLL_SECONDS : 0;
      const { body, headers: told } = await answer("GET", `/jobs/${id}?wait=${wait}`, { headers, signal });
      connected(true);
      tag = told.get("ETag");
      if (body) changed(() => body);
      if (body && !isActive(body)) return;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Away) && error.status < 500) throw error;
      connected(false);
      await new Promise((again) => setTimeout(again, AGAIN_MS));
    }
  }
}

/** A photo that is stored stays so, whatever an older event says of it when the story is told from its beginning. */
function withPhoto(job, { status, progress, photo }) {
  const photos = job.photos.map((known) => (known.id === photo.id && !known.url ? { ...known, ...photo } : known));
  const done = Math.max(job.progress.done, progress.done);
  return { ...job, status, photos, progress: { ...progress, done } };
}
