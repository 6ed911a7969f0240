/** A job as it changes: by its events as they happen, or, where those do not come through, by long polls. */

import { answer, Away } from "./api.js";

const PHOTO_EVENTS = ["photo.started", "photo.retried", "photo.stored", "photo.failed"];
const END_EVENTS = ["job.completed", "job.partial", "job.failed", "job.canceled"];
const POLL_SECONDS = 25;
const AGAIN_MS = 2000;
const UNSEEN_MS = 5000;

export const isActive = (job) => job.status === "QUEUED" || job.status === "PROCESSING";

/**
 * Call `changed` for every change, with a function from the job as it was to the job as it is, until the job has ended
 * or `signal` ends; and `connected` with whether news come. Rejects with what the API refuses.
 *
 * A browser opens six connections to a host, and a stream keeps one for as long as it lasts. So a tab that nobody sees
 * lets its stream go and asks now and then, enough for its title to tell the end.
 */
export async function follow(id, changed, connected, signal) {
  let streams = true;
  let ended = false;
  while (!ended && !signal.aborted) {
    const turn = whileAsSeenAsNow(signal);
    if (document.hidden || !streams) {
      ended = await byPolls(id, changed, connected, turn);
    } else {
      ended = await byEvents(id, changed, connected, turn);
      streams = ended || turn.aborted;
    }
  }
}

/** A signal that ends with `signal`, or once the tab comes to the front or leaves it. */
function whileAsSeenAsNow(signal) {
  const turn = new AbortController();
  document.addEventListener("visibilitychange", () => turn.abort(), { once: true, signal });
  return AbortSignal.any([signal, turn.signal]);
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
        byPolls(id, changed, connected, signal).then(resolve, () => resolve(false));
      });
  });
}

/** The same by asking: each answer waits for a change while the tab is seen. */
async function byPolls(id, changed, connected, signal) {
  let tag = null;
  while (!signal.aborted) {
    try {
      const headers = tag ? { "If-None-Match": tag } : {};
      const wait = tag && !document.hidden ? POLL_SECONDS : 0;
      const { body, headers: told } = await answer("GET", `/jobs/${id}?wait=${wait}`, { headers, signal });
      connected(true);
      tag = told.get("ETag");
      if (body) changed(() => body);
      if (body && !isActive(body)) return true;
      if (document.hidden) await pause(UNSEEN_MS, signal);
    } catch (error) {
      if (signal.aborted) break;
      if (!(error instanceof Away) && !(error.status >= 500)) throw error;
      connected(false);
      await pause(AGAIN_MS, signal);
    }
  }
  return false;
}

function pause(milliseconds, signal) {
  return new Promise((over) => {
    setTimeout(over, milliseconds);
    signal.addEventListener("abort", over);
  });
}

/** A photo that is stored stays so, whatever an older event says of it when the story is told from its beginning. */
function withPhoto(job, { status, progress, photo }) {
  const photos = job.photos.map((known) => (known.id === photo.id && !known.url ? { ...known, ...photo } : known));
  const done = Math.max(job.progress.done, progress.done);
  return { ...job, status, photos, progress: { ...progress, done } };
}
