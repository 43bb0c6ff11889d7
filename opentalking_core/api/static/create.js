// Making an avatar from a photo or a video.

import { checkPortrait, createAvatar, isVideo, refusal, showPreview } from "./api.js";
import { $, closable, element, say } from "./dom.js";

const WORKING = "Locating the mouth and saving…";
const dialog = $("create");
let source = null; // the file of the photo or the video
let check = new AbortController(); // of the check that is under way
let upload = null; // AbortController while an upload is under way

/** Set the dialog up; onCreated is called with the new avatar's summary, onAbandoned if an upload was cancelled. */
export function startCreate(onCreated, onAbandoned) {
  closable(dialog);
  $("create-cancel").addEventListener("click", () => dialog.close());
  $("photo").addEventListener("change", () => $("photo").files[0] && choose($("photo").files[0]));
  $("photo-preview").addEventListener("load", () => URL.revokeObjectURL($("photo-preview").src));
  $("photo-preview").addEventListener("error", () => {
    if (!source) return;
    const name = source.name;
    forgetSource();
    say($("create-error"), `“${name}” can’t be read as a picture. Choose another one.`);
  });
  $("base").addEventListener("change", showBase);
  $("base-image").addEventListener("error", () => $("base-image").classList.add("gone"));
  $("create-form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit(onCreated, onAbandoned);
  });
  dialog.addEventListener("close", () => {
    check.abort();
    upload?.abort();
  });
}

/**
 * Open the dialog.
 * avatars: the summaries of all avatars, of which those that can be a base are offered.
 * file: the photo or the video, if there is one already.
 */
export function openCreate(avatars, file = null) {
  if (!dialog.open) {
    const bases = avatars.filter((avatar) => avatar.model_type === "wav2lip");
    const groups = [
      ["Built-in", bases.filter((avatar) => !avatar.is_custom)],
      ["Custom", bases.filter((avatar) => avatar.is_custom)],
    ];
    $("base").replaceChildren(...groups.filter(([, members]) => members.length).map(group));
    $("no-base").hidden = bases.length > 0;
    $("create-form").hidden = bases.length === 0;
    $("name").value = "";
    forgetSource();
    say($("create-error"), "");
    dialog.showModal();
    if (!bases.length) return;
    showBase();
    $("photo").focus();
  }
  if (file && !upload && !$("create-form").hidden) {
    choose(file);
    $("name").focus();
  }
}

function group([label, members]) {
  const made = element("optgroup");
  made.label = label;
  made.append(...members.map((avatar) => new Option(avatar.name || avatar.id, avatar.id)));
  return made;
}

function showBase() {
  $("base-image").classList.remove("gone");
  showPreview($("base-image"), $("base").value, 44);
}

function forgetSource() {
  check.abort();
  source = null;
  $("photo").value = "";
  $("photo-preview").hidden = true;
  $("photo-preview").removeAttribute("src");
  URL.revokeObjectURL($("video-preview").src);
  $("video-preview").hidden = true;
  $("video-preview").removeAttribute("src");
  $("photo-call").hidden = false;
  $("photo-name").textContent = "";
  $("check").hidden = true;
}

function choose(file) {
  forgetSource();
  const problem = refusal(file);
  say($("create-error"), problem);
  if (problem) return;
  source = file;
  const preview = $(isVideo(file) ? "video-preview" : "photo-preview");
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  $("photo-call").hidden = true;
  $("photo-name").textContent = file.name;
  if (!isVideo(file)) runCheck(file); // a video would be sent twice
}

async function runCheck(file) {
  check = new AbortController();
  const { signal } = check;
  $("check-title").textContent = "Looking at the photo…";
  $("check-title").className = "";
  $("check-failed").replaceChildren();
  $("check-more").hidden = true;
  $("check-more").open = false;
  $("check").setAttribute("aria-busy", "true");
  $("check").hidden = false;
  let report;
  try {
    report = await checkPortrait(file, signal);
  } catch (error) {
    if (!signal.aborted) $("check-title").textContent = `The photo was not checked: ${error.message}`;
    return;
  } finally {
    if (!signal.aborted) $("check").setAttribute("aria-busy", "false");
  }
  if (signal.aborted) return;
  if (report === null) {
    $("check").hidden = true;
    return;
  }
  const failed = report.checks.filter((one) => one.passed === false);
  $("check-title").textContent = failed.length
    ? "The avatar may turn out badly with this photo:"
    : "The photo passed the checks.";
  $("check-title").className = failed.length ? "failed" : "passed";
  $("check-failed").replaceChildren(...failed.map((one) => item(one, one.message)));
  $("check-all").replaceChildren(...report.checks.map((one) => item(one, `${title(one.name)}: ${one.message}`)));
  $("check-more").hidden = false;
}

function item(one, text) {
  const [className, spoken] = { true: ["passed", "Passed. "], false: ["failed", "Not passed. "] }[one.passed] ?? [
    "unknown",
    "",
  ];
  const made = element("li", className);
  made.append(element("span", "unseen", spoken), text);
  return made;
}

function title(name) {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

async function submit(onCreated, onAbandoned) {
  if (upload) return;
  if (!source) {
    say($("create-error"), "Choose a photo or a video first.");
    $("photo").focus();
    return;
  }
  const form = new FormData();
  form.append("name", $("name").value);
  form.append("base_avatar_id", $("base").value);
  form.append(isVideo(source) ? "video" : "image", source);
  say($("create-error"), "");
  upload = new AbortController();
  setBusy(true);
  try {
    const summary = await createAvatar(form, showProgress, upload.signal);
    upload = null; // so that closing the dialog cancels nothing
    dialog.close();
    onCreated(summary);
  } catch (error) {
    if (error.name === "AbortError") onAbandoned();
    else say($("create-error"), error.message);
  } finally {
    const failed = dialog.open;
    upload = null;
    setBusy(false);
    if (failed) $("create-submit").focus();
  }
}

function setBusy(busy) {
  for (const id of ["photo-fields", "text-fields"]) $(id).disabled = busy;
  $("create-submit").hidden = busy;
  $("drop-zone").classList.toggle("busy", busy);
  $("progress").hidden = !busy;
  $("progress-spoken").textContent = "";
  $("create-cancel").textContent = busy ? "Cancel upload" : "Cancel";
  if (!busy) return;
  showProgress({ sent: 0 });
  $("create-cancel").focus(); // the button that was pressed is gone
}

function showProgress({ sent = 1, frames_done = 0, frames = 0, seconds_left = null }) {
  const [text, percent, spoken] =
    sent < 1
      ? [`Uploading… ${Math.floor(sent * 100)} %`, sent * 100, "Uploading…"]
      : frames > 1
        ? [`Locating the mouth: ${frames_done} of ${frames} frames${left(seconds_left)}`, (frames_done / frames) * 100, WORKING]
        : [WORKING, null, WORKING];
  $("progress-text").textContent = text;
  if (percent === null) $("progress-bar").removeAttribute("value"); // the duration is unknown
  else $("progress-bar").value = percent;
  if ($("progress-spoken").textContent !== spoken) $("progress-spoken").textContent = spoken; // not every percent
}

function left(seconds) {
  return seconds === null ? "" : `, ${Math.ceil(seconds)} s left`;
}
