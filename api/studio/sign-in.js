/** The door: an email in development, the host site in production. */

import { Away, Refused } from "./api.js";
import { catalogue } from "./catalogue.js";
import contract from "./contract.js";
import { word } from "./language.js";
import { signIn } from "./session.js";
import { instance, part } from "./template.js";

export async function show(stage) {
  const styles = await catalogue();
  const view = instance("sign-in");
  const root = view.firstElementChild;
  const samples = part(root, "samples");
  for (const entry of styles.values()) {
    const sample = samples.appendChild(new Image(420, 560));
    Object.assign(sample, { src: entry.sample_url, alt: "" });
  }
  part(root, "form").hidden = !contract.development;
  part(root, "at-the-site").hidden = contract.development;
  const site = part(root, "site");
  site.hidden = !contract.site;
  if (contract.site) site.href = contract.site;
  part(root, "form").addEventListener("submit", (event) => {
    event.preventDefault();
    enter(root);
  });
  stage.replaceChildren(view);
}

async function enter(root) {
  const told = part(root, "told");
  told.textContent = "";
  try {
    await signIn(part(root, "email").value.trim());
  } catch (error) {
    if (error instanceof Away) told.textContent = word("away.text");
    else if (error instanceof Refused) told.textContent = error.detail;
    else throw error;
  }
}
