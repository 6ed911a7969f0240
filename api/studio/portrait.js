/** The portrait: chosen, taken, dropped or pasted; looked at before it is sent, and shown at once. */

import { sentence } from "./api.js";
import contract from "./contract.js";
import { change, draft } from "./draft.js";
import { hasWord, word } from "./language.js";
import { announce } from "./notice.js";
import { part } from "./template.js";

const { max_bytes, max_pixels, min_side_px } = contract.portrait;
const TAKEN = /^image\/(jpeg|png|webp|heic|heif)$/;
const HEIC = /^image\/hei[cf]$|\.hei[cf]$/i;

/** Make the field below `root` work, until `signal` ends. `changed` is called when the draft has another portrait. */
export function portraitField(root, changed, signal) {
  const field = part(root, "portrait");

  async function take(file) {
    if (!file) return;
    complain(root, null);
    const { code, preview } = await looked(file);
    if (signal.aborted) return;
    if (code) return complain(root, code, sentence(code));
    change({ file, preview, again: null });
    announce(word("portrait.ready"));
    changed();
  }

  for (const input of field.querySelectorAll("input[type=file]"))
    input.addEventListener("change", () => {
      take(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]), { signal });
  document.addEventListener("dragover", (event) => hover(event, true), { signal });
  document.addEventListener("dragleave", (event) => hover(event, false), { signal });
  document.addEventListener("drop", (event) => (hover(event, false), take(event.dataTransfer.files[0])), { signal });

  function hover(event, above) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    field.classList.toggle("hovered", above);
  }
}

/** Show the draft's portrait below `root`, or the empty place for it. */
export function showPortrait(root) {
  const field = part(root, "portrait");
  const picture = part(root, "picture");
  const has = Boolean(draft.file || draft.again);
  const address = draft.again ? draft.again.portrait_url : draft.preview;
  field.classList.toggle("filled", has);
  picture.hidden = !(has && address);
  if (address) picture.src = address;
  picture.alt = word("portrait.chosen");
  part(root, "no-preview").hidden = !has || Boolean(address);
  part(root, "again").hidden = !draft.again;
  part(root, "choose").textContent = word(has ? "portrait.replace" : "portrait.choose");
}

/** Say below the portrait what is wrong with it, in the API's words, and what would be better; null takes it back. */
export function complain(root, code, detail = "") {
  const place = part(root, "complaint");
  place.replaceChildren();
  part(root, "portrait").classList.toggle("refused", code !== null);
  if (code === null) return;
  const said = document.createElement("strong");
  said.textContent = detail;
  const advice = hasWord(`advice.${code}`) ? `${word(`advice.${code}`)} ` : "";
  place.append(said, `${advice}${word("refused.free")}`);
}

/** What the API would refuse without a face check, as `code`; else an address of its picture, if it can be shown. */
async function looked(file) {
  if (file.size > max_bytes) return { code: "file_too_large" };
  const heic = HEIC.test(file.type || file.name);
  if (!heic && !TAKEN.test(file.type)) return { code: "invalid_image" };
  const preview = URL.createObjectURL(file);
  const picture = new Image();
  picture.src = preview;
  try {
    await picture.decode();
  } catch {
    URL.revokeObjectURL(preview);
    return heic ? { preview: null } : { code: "invalid_image" };
  }
  const { naturalWidth: width, naturalHeight: height } = picture;
  if (Math.min(width, height) >= min_side_px && width * height <= max_pixels) return { preview };
  URL.revokeObjectURL(preview);
  return { code: "invalid_image" };
}
