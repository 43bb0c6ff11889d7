// The API key, where the service wants one: kept in sessionStorage, which ends with the tab.

import { $ } from "./dom.js";

const STORED = "opentalking-api-key";

let asking = null; // the promise of the dialog that is open

/** The headers that carry the key; none without one. */
export function authorization() {
  const key = sessionStorage.getItem(STORED);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Ask for a key; resolves to whether there is a new one to try. Several who ask at the same time share one answer. */
export function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = $("key");
    let given = false;
    $("key-reason").textContent = reason;
    $("key-value").value = "";
    $("key-forget").hidden = !sessionStorage.getItem(STORED);
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      const key = $("key-value").value;
      if (!key) return;
      sessionStorage.setItem(STORED, key);
      given = true;
      dialog.close();
    };
    $("key-forget").onclick = () => {
      sessionStorage.removeItem(STORED);
      dialog.close();
    };
    $("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => {
      asking = null;
      showButton();
      resolve(given);
    };
    dialog.showModal();
    $("key-value").focus();
  });
  return asking;
}

/** Let people change the key, if there is one; onChange is called when they have. */
export function offerKeyChange(onChange) {
  $("change-key").addEventListener("click", async () => {
    const before = sessionStorage.getItem(STORED);
    await askForKey("This key is sent with every request. You can use another one, or forget it.");
    if (sessionStorage.getItem(STORED) !== before) onChange();
  });
  showButton();
}

function showButton() {
  $("change-key").hidden = !sessionStorage.getItem(STORED);
}
