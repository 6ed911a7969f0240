/** Who is signed in, and the credits they have. The proof is a cookie that no script can read. */

import { call, Refused } from "./api.js";

/** Tells `changed` whenever the person or their credits are not what they were. */
export const session = Object.assign(new EventTarget(), { user: null });

/** Look who is there, and how many credits they have now. */
export async function refresh() {
  try {
    become(await call("GET", "/me"));
  } catch (error) {
    if (!(error instanceof Refused && error.status === 401)) throw error;
    become(null);
  }
}

/** Development: be this person. */
export async function signIn(email) {
  await call("POST", "/session", { json: { email } });
  await refresh();
}

/** Production: be whom the host site's token names. */
export async function signInByToken(token) {
  await call("POST", "/session", { headers: { Authorization: `Bearer ${token}` } });
}

export async function signOut() {
  await call("DELETE", "/session");
  become(null);
}

export function become(user) {
  session.user = user;
  session.dispatchEvent(new Event("changed"));
}

export function hasCredits(credits) {
  become({ ...session.user, credits });
}
