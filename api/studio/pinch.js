/** Fingers on a picture: two to enlarge it, one to move it about, a swipe for the next, a double tap to come close. */

const MOST = 4;
const CLOSE = 2.5;
const SWIPE_PX = 50;
const DOUBLE_TAP_MS = 300;

/** Make `picture` follow the fingers on `surface`; `turned` is called with -1 or 1. Returns what lays it flat again. */
export function pinch(surface, picture, turned) {
  const fingers = new Map();
  let scale = 1;
  let [x, y] = [0, 0];
  let start = null;
  let tapped = 0;

  function lay() {
    const room = { x: (surface.clientWidth * (scale - 1)) / 2, y: (surface.clientHeight * (scale - 1)) / 2 };
    x = Math.min(room.x, Math.max(-room.x, x));
    y = Math.min(room.y, Math.max(-room.y, y));
    picture.style.transform = scale === 1 ? "" : `translate(${x}px, ${y}px) scale(${scale})`;
  }

  function flat() {
    scale = 1;
    lay();
  }

  function begin() {
    const [one, other] = fingers.values();
    start = one && { ...middle(one, other), apart: apart(one, other), scale, x, y, fingers: fingers.size };
  }

  surface.addEventListener("pointerdown", (event) => {
    surface.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    begin();
  });

  surface.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const [one, other] = fingers.values();
    const now = middle(one, other);
    if (other) scale = Math.min(MOST, Math.max(1, (start.scale * apart(one, other)) / start.apart));
    if (scale > 1) [x, y] = [start.x + now.x - start.middleX, start.y + now.y - start.middleY];
    lay();
  });

  surface.addEventListener("pointerup", (event) => {
    const moved = event.clientX - start.middleX;
    const alone = start.fingers === 1 && fingers.size === 1;
    if (alone && scale === 1 && Math.abs(moved) > SWIPE_PX) turned(moved < 0 ? 1 : -1);
    else if (alone && Math.abs(moved) < 10) tap(event.timeStamp);
    lift(event);
  });
  surface.addEventListener("pointercancel", lift);

  function lift(event) {
    fingers.delete(event.pointerId);
    begin();
  }

  function tap(time) {
    if (time - tapped < DOUBLE_TAP_MS) {
      scale = scale > 1 ? 1 : CLOSE;
      lay();
    }
    tapped = time;
  }

  return flat;
}

const apart = (one, other) => (other ? Math.hypot(one.x - other.x, one.y - other.y) : 1);

function middle(one, other = one) {
  const [x, y] = [(one.x + other.x) / 2, (one.y + other.y) / 2];
  return { x, y, middleX: x, middleY: y };
}
