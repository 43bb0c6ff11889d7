// One avatar: its picture with the mouth drawn over it, its manifest, and its deletion.

import { avatarUrl, deleteAvatar, readManifest, showPreview } from "./api.js";
import { $, closable, element, initial, notify, say } from "./dom.js";

const PREVIEW_WIDTH = 720; // in CSS pixels, more than the dialog shows
const SVG = "http://www.w3.org/2000/svg";

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
  $("detail-mouth").textContent = drawOutlines(metadata, name, custom, id === justCreated);
  $("detail-facts").replaceChildren(...facts(id, manifest, metadata));
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

/** Draw what the manifest knows of mouth and face; returns a sentence about it. */
function drawOutlines(metadata, name, custom, isNew) {
  const animation = metadata.animation ?? {};
  const shapes = [];
  if (isBox(metadata.face_box)) {
    const [left, top, right, bottom] = metadata.face_box;
    shapes.push(polygon([[left, top], [right, top], [right, bottom], [left, bottom]], "face"));
  }
  const mouth = isOutline(animation.outer_lip);
  if (mouth) shapes.push(polygon(animation.outer_lip, "outer-lip"));
  if (mouth && isOutline(animation.inner_mouth)) shapes.push(polygon(animation.inner_mouth, "inner-mouth"));
  $("detail-outlines").replaceChildren(...shapes);
  $("detail-outlines").setAttribute("aria-label", mouth ? `Outline of the mouth of ${name}` : "No outline of a mouth");
  $("detail-toggle").hidden = !shapes.length;
  $("detail-mouth").classList.toggle("missing", custom && !mouth);
  $("detail-mouth").classList.toggle("ready", isNew && mouth);
  showOutlines();
  const ready = isNew ? "The avatar is ready. " : "";
  if (mouth) return `${ready}The mouth was found${by(metadata.mouth_polygon_source)}.`;
  if (!custom) return "The manifest has no outline of the mouth.";
  return `${ready}No mouth was found in the photo, so the manifest has none. A sharp photo of one face, from the front, works best.`;
}

function by(source) {
  return typeof source === "string" && source !== "unavailable" ? ` by ${source}` : "";
}

function polygon(points, className) {
  const shape = document.createElementNS(SVG, "polygon");
  shape.setAttribute("points", points.map(([x, y]) => `${x},${y}`).join(" "));
  shape.setAttribute("class", className);
  return shape;
}

// Manifests are written by anybody: what is not of the right shape is not drawn.
function isOutline(points) {
  return Array.isArray(points) && points.length >= 3 && points.every((point) => isNumbers(point, 2));
}

function isBox(box) {
  return isNumbers(box, 4);
}

function isNumbers(values, length) {
  return Array.isArray(values) && values.length === length && values.every(Number.isFinite);
}

function facts(id, manifest, metadata) {
  const rows = [
    ["Id", id],
    ["Model type", manifest.model_type],
    ["Size", `${manifest.width} × ${manifest.height}`],
    ["Frame rate", `${manifest.fps} fps`],
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
