// Small helpers. Names and all else that comes from the service reaches the page as text only.

export const $ = (id) => document.getElementById(id);

/** A new element with a class and text. */
export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Show a sentence in an element that is hidden while there is nothing to say. */
export function say(target, text) {
  target.textContent = text;
  target.hidden = !text;
  if (text) target.scrollIntoView?.({ block: "nearest" });
}

/** What is shown where there is no picture: the first letter of the name. */
export function initial(name) {
  const [first] = new Intl.Segmenter().segment(name.trim());
  return first ? first.segment.toLocaleUpperCase() : "?";
}

/** Close a dialog with its × button, and with a click beside it. */
export function closable(dialog) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  let pressedOutside = false; // a selection of text that is dragged out of the dialog must not close it
  dialog.addEventListener("pointerdown", (event) => (pressedOutside = event.target === dialog));
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog && pressedOutside) dialog.close();
  });
}

let noticeEnds;

/** Tell what has happened, for a while. */
export function notify(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  clearTimeout(noticeEnds);
  noticeEnds = setTimeout(() => (notice.textContent = ""), 8000);
}
