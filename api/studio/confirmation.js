/** A question before something that cannot be undone. */

import { word } from "./language.js";
import { instance, part } from "./template.js";

/** Whether the person says yes before `signal` ends; `subject` names the words `subject.question`, `subject.text` and `subject.confirm`. */
export function confirmed(subject, signal) {
  const dialog = instance("confirmation").firstElementChild;
  part(dialog, "question").textContent = word(`${subject}.question`);
  part(dialog, "text").textContent = word(`${subject}.text`);
  part(dialog, "confirm").textContent = word(`${subject}.confirm`);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => dialog.close());
    part(dialog, "confirm").addEventListener("click", () => dialog.close("yes"));
    part(dialog, "back").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}
