// The frames of an avatar that was made from a video: a filmstrip, and the frame that is looked at.

import { listFiles, readFile, showFile } from "./api.js";
import { $, element } from "./dom.js";

const STRIP = 12; // pictures in the filmstrip

let frames = []; // the paths of the frames, in the order of playing
let mouths = {}; // file name -> the metadata of that frame
let shown = null; // id of the avatar
let onFrame = null;

/** Set the filmstrip up; onFrame is called with the metadata of the frame that is looked at, and a text about it. */
export function startFrames(callback) {
  onFrame = callback;
  $("frame").addEventListener("input", () => look(Number($("frame").value)));
}

/** Show the frames of an avatar, if there are several. */
export async function showFrames(id, metadata) {
  shown = id;
  frames = [];
  $("frames").hidden = true;
  const folder = typeof metadata.frame_dir === "string" ? metadata.frame_dir.replace(/\/+$/, "") : "frames";
  if (metadata.reference_mode !== "frames") return;
  try {
    const files = await listFiles(id);
    const found = files.map((file) => file.path).filter((path) => isFrame(path, folder));
    const described = files.some((file) => file.path === metadata.frame_metadata);
    const index = described ? JSON.parse(await readFile(id, metadata.frame_metadata)) : {};
    if (shown !== id || found.length < 2) return;
    frames = found;
    mouths = index?.frames ?? {};
  } catch {
    return; // the avatar is shown without its frames
  }
  const step = Math.max(1, frames.length / STRIP);
  const picked = [...Array(Math.min(STRIP, frames.length)).keys()].map((index) => Math.floor(index * step));
  $("strip").replaceChildren(...picked.map((index) => stripItem(id, index)));
  $("frame").max = frames.length - 1;
  $("frame").value = 0;
  tell(0);
  $("frames").hidden = false;
}

function isFrame(path, folder) {
  return path.startsWith(`${folder}/`) && !path.slice(folder.length + 1).includes("/") && /\.(png|jpe?g)$/i.test(path);
}

function stripItem(id, index) {
  const item = element("li");
  const button = element("button");
  button.type = "button";
  button.dataset.index = index;
  button.setAttribute("aria-label", `Frame ${index + 1}`);
  const img = element("img");
  img.alt = "";
  img.loading = "lazy";
  showFile(img, id, frames[index]);
  button.append(img);
  button.addEventListener("click", () => look(index));
  item.append(button);
  return item;
}

function look(index) {
  $("frame").value = index;
  showFile($("detail-image"), shown, frames[index]);
  tell(index);
  const mouth = mouths[frames[index].split("/").pop()];
  onFrame(mouth ?? {}, mouth ? "" : "No mouth was found in this frame.");
}

function tell(index) {
  $("frame-number").textContent = `Frame ${index + 1} of ${frames.length}`;
  for (const button of $("strip").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(Number(button.dataset.index) === index));
  }
}
