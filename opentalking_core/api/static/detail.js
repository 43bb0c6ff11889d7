// One avatar: its picture with the mouth drawn over it, its manifest, and its deletion.

import { avatarUrl, deleteAvatar, readManifest, showPreview } from "./api.js";
import { $, closable, element, initial, notify, say } from "./dom.js";
import { showFrames, startFrames } from "./frames.js";
import { drawOutlines } from "./outlines.js";

const PREVIEW_WIDTH = 720; // in CSS pixels, more than the dialog shows

const dialog = $("detail");
let shown = null; // id of the avatar in the dialog
let justCreated = null; // id of the avatar that was made last

/** The address of an avatar's detail view within this page. */
export function detailLink(id) {
  return `#/${encodeURIComponent(id)}`;
}

/** Show an avatar that was made a moment ago. */
export function showCreated(id) {
  justCreated = id;
  location.hash = detailLink(id);
}

/** Open and close the detail view as the address says; onDeleted is called with the id of an avatar that is gone. */
export function startDetail(onDeleted) {
  closable(dialog);
  dialog.addEventListener("close", () => {
    shown = null;
    if (location.hash.startsWith("#/")) history.pushState(null, "", location.pathname + location.search);
  });
  startFrames(drawFrame);
  $("show-outlines").addEventListener("change", showOutlines);
  $("detail-image").addEventListener("error", () => showPicture(false));
  $("detail-image").addEventListener("load", () => showPicture(true));
  $("delete").addEventListener("click", () => confirmDeletion(shown, $("detail-name").textContent, onDeleted));
  $("confirm-no").addEventListener("click", () => $("confirm").close());
  addEventListener("hashchange", followAddress);
  followAddress();
}

function followAddress() {
  const id = location.hash.startsWith("#/") ? decoded(location.hash.slice(2)) : "";
  if (id) open(id);
  else if (dialog.open) dialog.close();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function open(id) {
  shown = id;
  $("detail-name").textContent = id;
  $("detail-body").hidden = true;
  say($("detail-error"), "");
  if (!dialog.open) dialog.showModal();
  $("detail-name").focus();
  try {
    const text = await readManifest(id);
    if (shown === id) fill(id, text);
  } catch (error) {
    if (shown === id) say($("detail-error"), error.message);
  }
}

function fill(id, text) {
  const manifest = JSON.parse(text);
  const metadata = manifest.metadata ?? {};
  const name = manifest.name || id;
  const custom = metadata.custom_avatar === true && metadata.hidden !== true;
  $("detail-name").textContent = name;
  $("detail-placeholder").textContent = initial(name);
  $("detail-image").alt = `Preview of ${name}`;
  $("detail-image").removeAttribute("src"); // the last avatar's
  showPicture(true);
  showPreview($("detail-image"), id, PREVIEW_WIDTH);
  $("detail-mouth").textContent = drawManifest(metadata, custom, id === justCreated);
  $("detail-facts").replaceChildren(...facts(id, manifest, metadata));
  showFrames(id, metadata);
  $("manifest").textContent = JSON.stringify(manifest, null, 2);
  $("manifest").scrollTop = 0;
  $("manifest-link").href = avatarUrl(id);
  $("delete").hidden = !custom;
  $("detail-body").hidden = false;
}

function showPicture(there) {
  $("detail-image").hidden = !there;
  $("detail-placeholder").hidden = there;
  showOutlines();
}

function showOutlines() {
  const outlines = $("detail-outlines");
  outlines.classList.toggle("gone", !$("show-outlines").checked || $("detail-image").hidden);
}

/** Draw mouth and face over the picture; returns whether there is an outline of the mouth. */
function draw(metadata) {
  const { mouth, any } = drawOutlines($("detail-outlines"), metadata);
  const name = $("detail-name").textContent;
  $("detail-outlines").setAttribute("aria-label", mouth ? `Outline of the mouth of ${name}` : "No outline of a mouth");
  $("detail-toggle").hidden = !any;
  showOutlines();
  return mouth;
}

/** Draw what the manifest knows of mouth and face; returns a sentence about it. */
function drawManifest(metadata, custom, isNew) {
  const mouth = draw(metadata);
  $("detail-mouth").classList.toggle("missing", custom && !mouth);
  $("detail-mouth").classList.toggle("ready", isNew && mouth);
  const ready = isNew ? "The avatar is ready. " : "";
  if (mouth) return `${ready}The mouth was found${by(metadata.mouth_polygon_source)}${inFrames(metadata)}.`;
  if (!custom) return "The manifest has no outline of the mouth.";
  return `${ready}No mouth was found, so the manifest has none. A sharp picture of one face, from the front, works best.`;
}

/** Draw what is known of one frame. */
function drawFrame(metadata, text) {
  draw(metadata);
  $("detail-mouth").className = text ? "mouth missing" : "mouth";
  $("detail-mouth").textContent = text || "The mouth was found in this frame.";
}

function inFrames(metadata) {
  const found = metadata.portrait_checks?.checks?.frames_with_mouth?.value;
  const all = metadata.extracted_frame_count;
  return Number.isInteger(found) && Number.isInteger(all) ? `, in ${found} of ${all} frames` : "";
}

function by(source) {
  return typeof source === "string" && source !== "unavailable" ? ` by ${source}` : "";
}

function facts(id, manifest, metadata) {
  const rows = [
    ["Id", id],
    ["Model type", manifest.model_type],
    ["Size", `${manifest.width} × ${manifest.height}`],
    ["Frame rate", `${manifest.fps} fps`],
    ...(Number.isInteger(metadata.extracted_frame_count) ? [["Frames", frameCount(manifest, metadata)]] : []),
    ["Audio", `${manifest.sample_rate} Hz`],
  ];
  const shown = rows.map(([term, text]) => row(term, String(text)));
  const base = metadata.base_avatar_id;
  if (typeof base === "string") {
    const link = element("a", "", base);
    link.href = detailLink(base);
    shown.push(row("Base", link));
  }
  const checks = metadata.portrait_checks?.checks;
  if (checks && typeof checks === "object") {
    const failed = Object.keys(checks).filter((name) => checks[name]?.passed === false);
    const text = failed.length ? `not passed: ${failed.map((name) => name.replaceAll("_", " ")).join(", ")}` : "passed";
    shown.push(row("Portrait checks", text));
  }
  return shown;
}

function frameCount(manifest, metadata) {
  const seconds = metadata.extracted_frame_count / manifest.fps;
  return `${metadata.extracted_frame_count}, ${seconds.toFixed(1)} seconds`;
}

function row(term, content) {
  const made = element("div");
  const definition = element("dd");
  definition.append(content);
  made.append(element("dt", "", term), definition);
  return made;
}

function confirmDeletion(id, name, onDeleted) {
  $("confirm-title").textContent = `Delete “${name}”?`;
  $("confirm-yes").disabled = false;
  say($("confirm-error"), "");
  $("confirm").querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    $("confirm-yes").disabled = true;
    try {
      await deleteAvatar(id);
    } catch (error) {
      if (error.status !== 404) { // else somebody else was faster
        $("confirm-yes").disabled = false;
        say($("confirm-error"), error.message);
        return;
      }
    }
    $("confirm").close();
    dialog.close();
    notify(`“${name}” is deleted.`);
    onDeleted(id);
  };
  $("confirm").showModal();
}
