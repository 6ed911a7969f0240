/** The first view: a portrait, a style, and the button that costs a credit. */

import { Away, call, Refused } from "./api.js";
import { catalogue, stylePictures } from "./catalogue.js";
import { askConsent } from "./consent.js";
import { change, draft, submit } from "./draft.js";
import { hasWord, word } from "./language.js";
import { announce, attempt } from "./notice.js";
import { complain, portraitField, showPortrait } from "./portrait.js";
import { go } from "./address.js";
import { hasCredits, refresh, session } from "./session.js";
import { instance, part } from "./template.js";

/** What the API says about the picture is told beside the picture. */
const ABOUT_THE_PORTRAIT = /^(no_face|multiple_faces|face_too_small|invalid_image|file_too_large)$/;

/** `again` is the job whose portrait is to be used once more. */
export async function show(stage, { again }, signal) {
  const view = instance("home");
  const root = view.firstElementChild;
  const [styles] = await Promise.all([catalogue(), useAgain(again), askConsent(root, signal)]);
  stage.replaceChildren(view);

  portraitField(root, () => (again ? go("#/") : showPortrait(root)), signal);
  showPortrait(root);
  part(root, "gone").hidden = !again || Boolean(draft.again);
  stylePictures(part(root, "styles"), styles, draft.style, (style) => change({ style }));
  for (const input of root.querySelectorAll("input[name=role]")) {
    input.checked = input.value === draft.role;
    input.addEventListener("change", () => change({ role: input.value }));
  }

  const balance = () => {
    const count = session.user?.credits ?? 0;
    part(root, "cost").textContent = count > 0 ? word("submit.cost", { count }) : word("submit.none");
  };
  balance();
  session.addEventListener("changed", balance, { signal });
  root.addEventListener("submit", (event) => (event.preventDefault(), ask(root, signal)));
}

async function useAgain(id) {
  if (!id) {
    if (draft.again) change({ again: null });
    return;
  }
  if (draft.again?.id === id) return;
  const job = await call("GET", `/jobs/${id}`);
  change({ file: null, preview: null, again: job.portrait_url && job, role: job.role ?? "", style: null });
}

async function ask(root, signal) {
  const button = part(root, "submit");
  tell(root, "");
  if (!draft.file && !draft.again) return tell(root, word("submit.needs-portrait"), part(root, "file"));
  if (!draft.style) return tell(root, word("submit.needs-style"), root.querySelector("input[name=style]"));
  if (!draft.consent) return tell(root, word("submit.needs-consent"), part(root, "consent"));
  button.setAttribute("aria-disabled", "true");
  button.textContent = word("submit.busy");
  announce(word("submit.busy"));
  try {
    const job = await submit();
    if (job.remaining_credits !== null) hasCredits(job.remaining_credits);
    else refresh().catch(() => {}); // a replay moved nothing; the answer that was lost had the number
    change({ style: null });
    go(`#/jobs/${job.id}`);
  } catch (error) {
    told(root, error);
    if (error.code === "consent_required") await attempt(() => askConsent(root, signal));
  } finally {
    button.removeAttribute("aria-disabled");
    button.textContent = word("submit");
  }
}

function told(root, error) {
  if (error instanceof Away) return tell(root, word("away.sending"));
  if (!(error instanceof Refused)) throw error;
  if (ABOUT_THE_PORTRAIT.test(error.code)) {
    complain(root, error.code, error.detail);
    return part(root, "complaint").scrollIntoView({ block: "center" });
  }
  const advice = hasWord(`advice.${error.code}`) ? word(`advice.${error.code}`) : word("refused.free");
  return tell(root, `${error.detail}. ${advice}`.replace("..", "."));
}

function tell(root, text, where) {
  part(root, "told").textContent = text;
  where?.focus();
}
