/** The address says what is shown: after `#`, so that every view can be kept, shared with oneself and gone back to. */

const ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}";
const VIEWS = [
  [new RegExp(`^#/jobs/(?<id>${ID})(?:/(?<photo>[1-4]))?$`), "job"],
  [new RegExp(`^#/again/(?<again>${ID})$`), "home"],
  [/^#\/history$/, "history"],
  [/^#\/credits$/, "ledger"],
  [/^#\/account$/, "account"],
];

/** The view's name and what it is to show. */
export function place() {
  for (const [pattern, name] of VIEWS) {
    const found = pattern.exec(location.hash);
    if (found) return { name, ...found.groups };
  }
  return { name: "home" };
}

export const go = (hash) => (location.hash = hash);

/** Go there without a step to go back to. */
export const replace = (hash) => location.replace(hash);

/** Forget where somebody was, so that whoever comes next begins at the beginning. */
export const begin = () => history.replaceState(null, "", "/");

/** The token that the host site handed over as `#token=...`; taken out of the address at once. */
export function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) begin();
  return token;
}
