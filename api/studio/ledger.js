/** Where the credits came from and went, in plain words. */

import { call } from "./api.js";
import { day, word } from "./language.js";
import { hasCredits } from "./session.js";
import { instance, part } from "./template.js";

export async function show(stage, _place, signal) {
  const { credits, entries } = await call("GET", "/me/credits", { signal });
  hasCredits(credits);
  const view = instance("ledger");
  const root = view.firstElementChild;
  part(root, "balance").textContent = credits;
  part(root, "entries").append(...entries.map(row));
  stage.replaceChildren(view);
}

function row({ kind, amount, balance_after, job_id, created_at }) {
  const item = instance("ledger-entry").firstElementChild;
  part(item, "amount").textContent = amount > 0 ? `+${amount}` : `−${-amount}`;
  part(item, "kind").textContent = word(`ledger.${kind}`);
  part(item, "day").textContent = day(created_at);
  part(item, "day").dateTime = created_at;
  part(item, "left").textContent = word("ledger.left", { count: balance_after });
  const link = part(item, "job");
  link.hidden = !job_id;
  if (job_id) link.href = `#/jobs/${job_id}`;
  return item;
}
