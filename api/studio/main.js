/** Where everything begins: who is there, what the address says, and the view that shows it. */

import * as account from "./account.js";
import { place, takeToken } from "./address.js";
import { Away, Refused, signedOut } from "./api.js";
import * as history from "./history.js";
import * as home from "./home.js";
import * as job from "./job.js";
import { fillWords, language, speak, word } from "./language.js";
import * as ledger from "./ledger.js";
import { entitle, notice } from "./notice.js";
import { become, refresh, session, signInByToken } from "./session.js";
import * as signIn from "./sign-in.js";
import { instance, part } from "./template.js";

const views = { home, job, history, ledger, account };
const stage = document.getElementById("stage");
const masthead = document.getElementById("masthead");

let shown = { place: {}, ending: new AbortController(), view: null };

/** Show what the address says. A view that is there already is only told that its address changed, if it can be. */
async function show({ anew = false } = {}) {
  const to = session.user ? place() : { name: "sign-in" };
  const same = !anew && to.name === shown.place.name && to.id === shown.place.id && shown.view?.moved;
  if (same) return shown.view.moved(to);
  shown.ending.abort();
  const ending = new AbortController();
  const first = shown.place.name === undefined;
  shown = { place: to, ending, view: null };
  mark(to);
  try {
    const view = await (session.user ? views[to.name] : signIn).show(stage, to, ending.signal);
    if (shown.ending === ending) shown.view = view;
  } catch (error) {
    if (ending.signal.aborted) return;
    if (error instanceof Refused && error.status === 401) return; // the sign-in is on its way
    showFailure(error);
  }
  if (shown.ending === ending) settle(first || anew);
}

/** A new page begins at its top and at its heading, for eyes and for screen readers. */
function settle(quietly) {
  const heading = stage.querySelector("h1");
  entitle(heading.textContent);
  if (quietly) return;
  scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

function showFailure(error) {
  const missing = error instanceof Refused && error.status === 404;
  if (!missing && !(error instanceof Away) && !(error instanceof Refused)) throw error;
  const view = instance("failure");
  const root = view.firstElementChild;
  const text = missing ? word("job.not-found.text") : error instanceof Refused ? error.detail : word("away.text");
  part(root, "title").textContent = word(missing ? "job.not-found" : "away.title");
  part(root, "text").textContent = text;
  part(root, "retry").hidden = missing;
  part(root, "retry").addEventListener("click", start);
  stage.replaceChildren(view);
}

/** The masthead: who is in sees their credits and where to go. */
function mark(to = shown.place) {
  const { user } = session;
  for (const element of masthead.querySelectorAll("[data-signed-in]")) element.hidden = !user;
  part(masthead, "credits").textContent = user ? word("credits.count", { count: user.credits }) : "";
  for (const link of masthead.querySelectorAll("[data-view]")) {
    if (link.dataset.view === to.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function translate() {
  document.documentElement.lang = language();
  fillWords(document);
  mark();
}

async function start() {
  try {
    const token = takeToken();
    if (token) await signInByToken(token);
    await refresh();
  } catch (error) {
    if (!(error instanceof Refused && error.status === 401)) return showFailure(error);
  }
  await show({ anew: true });
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address after `#` is ours
  stage.focus();
});
part(masthead, "language").addEventListener("click", () => {
  speak(language() === "ko" ? "en" : "ko");
  translate();
  show({ anew: true });
});

let present = null;
session.addEventListener("changed", () => {
  mark();
  const now = session.user?.id ?? null;
  if (now !== present && shown.place.name !== undefined) show({ anew: false });
  present = now;
});
signedOut.addEventListener("signed-out", () => {
  if (!session.user) return;
  notice(word("sign-in.ended"));
  become(null);
});
addEventListener("hashchange", () => show());
// Another tab may have spent a credit, or signed out.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && session.user) refresh().catch(() => {});
});

translate();
start();
