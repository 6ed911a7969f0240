/** The person's account: who they are here, everything that is kept about them, and its end. */

import { begin } from "./address.js";
import { call } from "./api.js";
import { confirmed } from "./confirmation.js";
import { forget } from "./draft.js";
import { word } from "./language.js";
import { attempt, notice } from "./notice.js";
import { become, session, signOut } from "./session.js";
import { instance, part } from "./template.js";

export function show(stage, _place, signal) {
  const view = instance("account");
  const root = view.firstElementChild;
  const { id, email } = session.user;
  part(root, "email").textContent = email;
  part(root, "sign-out").addEventListener("click", () =>
    attempt(async () => {
      await signOut();
      leave();
    }),
  );
  part(root, "delete").addEventListener("click", async () => {
    if (!(await confirmed("account.delete", signal))) return;
    await attempt(async () => {
      await call("DELETE", `/me?confirm=${id}`);
      become(null);
      leave();
      notice(word("account.deleted"));
    });
  });
  stage.replaceChildren(view);
}

/** Nothing of theirs is left for the next person at this browser: what they had begun, agreed to, or looked at. */
function leave() {
  forget();
  begin();
}
