// The list follows the changes that the service tells, also changes by others.

import { authorization } from "./key.js";

const PAUSE = 300; // milliseconds in which further changes are awaited, so that many cause one request

/** Call onChange after changes of the list, while the page is visible. */
export function followEvents(onChange) {
  let source = null;
  let timer = 0;
  const changed = () => {
    clearTimeout(timer);
    timer = setTimeout(onChange, PAUSE);
  };
  const follow = () => {
    const wanted = document.visibilityState === "visible" && !authorization().Authorization; // it can't send a key
    if (wanted === Boolean(source)) return;
    source?.close();
    source = wanted ? new EventSource("avatars/events") : null;
    for (const kind of ["created", "changed", "deleted", "reset"]) source?.addEventListener(kind, changed);
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}
