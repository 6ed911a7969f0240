/** How long it will still take, said honestly: from the API's measured times, and not at all where there are none. */

import { word } from "./language.js";

const SOON_SECONDS = 3;
const NEVER_FULL = 0.95; // only the photo itself completes its bar

/** What can be said about a job that the API has just told of. */
export function estimate(job) {
  const heardAt = performance.now();
  const { eta_seconds: usual, eta_p90_seconds: slow } = job;
  const age = Math.max(0, (Date.now() - Date.parse(job.created_at)) / 1000);
  const passed = () => (performance.now() - heardAt) / 1000;

  return {
    /** A sentence for the moment. */
    told() {
      if (usual === null) return word("remaining.unknown");
      const left = usual - passed();
      if (left > SOON_SECONDS) return word("remaining.seconds", { seconds: rounded(left) });
      if (left > 0) return word("remaining.soon");
      const atMost = slow - passed();
      return atMost > SOON_SECONDS ? word("remaining.at-most", { seconds: rounded(atMost) }) : word("remaining.late");
    },

    /** How far a photo in the making is, 0 to 1; null where nobody can know. */
    share() {
      if (usual === null) return null;
      return Math.min(NEVER_FULL, (age + passed()) / Math.max(1, age + usual));
    },
  };
}

/** No false precision: to the second below ten, then to five. */
const rounded = (seconds) => (seconds < 10 ? Math.ceil(seconds) : Math.ceil(seconds / 5) * 5);
