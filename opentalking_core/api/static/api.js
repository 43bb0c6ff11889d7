// Requests to the service. Addresses are relative, so that the page also works below a proxy's path.

import { askForKey, authorization } from "./key.js";

/** What the service, or the way to it, said against a request; the message is a sentence for people. */
export class RequestFailed extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status; // 0: there was no answer
  }
}

const UNREACHABLE = "The server can’t be reached. See whether it is running and you are online, then try again.";
const MB = 1024 * 1024;
const LIMITS = { image: 10, video: 200 }; // in MB
const IMAGE_TYPES = ["image/jpeg", "image/png", "image/webp"];

/** The address of an avatar, or of something below it. */
export function avatarUrl(id, rest = "") {
  return `avatars/${encodeURIComponent(id)}${rest}`;
}

export async function listAvatars() {
  return (await request("avatars")).json();
}

/** A manifest's text, exactly as it is stored. */
export async function readManifest(id) {
  return (await request(avatarUrl(id))).text();
}

/** The files of a bundle: [{path, size, etag, modified}]. */
export async function listFiles(id) {
  return (await request(avatarUrl(id, "/files"))).json();
}

/** The text of a file of a bundle. */
export async function readFile(id, path) {
  return (await request(fileUrl(id, path))).text();
}

function fileUrl(id, path) {
  return avatarUrl(id, `/files/${path.split("/").map(encodeURIComponent).join("/")}`);
}

export async function deleteAvatar(id) {
  await request(avatarUrl(id), { method: "DELETE" });
}

/** What the service thinks of a portrait: {passed, checks}; null if this service doesn't check portraits. */
export async function checkPortrait(image, signal) {
  const body = new FormData();
  body.append("image", image);
  try {
    return await (await request("avatars/check", { method: "POST", body, signal })).json();
  } catch (error) {
    if (error.status === 404 || error.status === 405) return null;
    throw error;
  }
}

/**
 * Make an avatar; its summary is returned. An aborted signal rejects with AbortError, and the service ends its work.
 * onProgress is called with {sent}, the share of the form that is sent, 0 to 1, and then with what the service tells:
 * {frames_done, frames, seconds_left}.
 */
export async function createAvatar(form, onProgress, signal) {
  for (;;) {
    const { status, text } = await send(form, onProgress, signal);
    if (status === 200) return result(text);
    if (status !== 401 || !(await askForKey(detail(text, status)))) throw new RequestFailed(detail(text, status), status);
  }
}

// With XMLHttpRequest, because fetch doesn't tell how far an upload is.
function send(form, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("POST", "avatars/custom");
    xhr.setRequestHeader("Accept", "text/event-stream");
    for (const [name, value] of Object.entries(authorization())) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = (event) => event.lengthComputable && onProgress({ sent: event.loaded / event.total });
    xhr.upload.onload = () => onProgress({ sent: 1 });
    xhr.onprogress = () => {
      const last = events(xhr.responseText).findLast(([name]) => name === "progress");
      if (last) onProgress(last[1]);
    };
    xhr.onload = () => resolve({ status: xhr.status, text: xhr.responseText });
    xhr.onerror = () => reject(new RequestFailed(UNREACHABLE));
    xhr.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    signal.addEventListener("abort", () => xhr.abort());
    xhr.send(form);
  });
}

/** The complete events of a stream: [name, data]. */
function events(text) {
  const blocks = text.split(/\r?\n\r?\n/).slice(0, -1);
  return blocks.map((block) => block.match(/^event: ?(.*)\r?\ndata: ?(.*)$/m)).filter(Boolean).map(([, name, data]) => [
    name,
    JSON.parse(data),
  ]);
}

/** The summary that a stream of events ends with. */
function result(text) {
  const [name, data] = events(text).at(-1) ?? [];
  if (name === "avatar") return data;
  if (name === "error") throw new RequestFailed(sentence(data.detail), data.status);
  throw new RequestFailed(UNREACHABLE); // the connection was cut off
}

async function request(url, options = {}) {
  for (;;) {
    let response;
    try {
      response = await fetch(url, { ...options, headers: authorization() });
    } catch (error) {
      throw error.name === "AbortError" ? error : new RequestFailed(UNREACHABLE);
    }
    if (response.ok) return response;
    const reason = detail(await response.text(), response.status);
    if (response.status !== 401 || !(await askForKey(reason))) throw new RequestFailed(reason, response.status);
  }
}

function detail(text, status) {
  try {
    const { detail } = JSON.parse(text);
    if (typeof detail === "string" && detail) return sentence(detail);
  } catch {
    // not from our service: a proxy's page, perhaps
  }
  return `The server answered with the status ${status} and no explanation.`;
}

/** The service's errors are sentences without capital and full stop. */
function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

/** Whether a file is a video, as far as the browser knows. */
export function isVideo(file) {
  return file.type.startsWith("video/") || /\.(mkv|mov|mp4|webm)$/i.test(file.name);
}

/** Why a file can't be a source, as far as can be told without reading it; "" if nothing speaks against it. */
export function refusal(file) {
  if (!isVideo(file) && !IMAGE_TYPES.includes(file.type)) {
    return `“${file.name}” is neither a JPEG, PNG or WebP picture nor an MP4, MOV, WebM or MKV video. Choose another file.`;
  }
  const limit = LIMITS[isVideo(file) ? "video" : "image"];
  if (file.size > limit * MB) {
    return `“${file.name}” has ${(file.size / MB).toFixed(1)} MB; at most ${limit} MB are accepted. Choose a smaller one.`;
  }
  return file.size ? "" : `“${file.name}” is empty. Choose another file.`;
}

// Pictures that need a key can't be plain <img src>: they are fetched, once they come near the visible part.
const nearby = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearby.unobserve(target);
      fetchPicture(target);
    }
  },
  { rootMargin: "400px" },
);

/** Show an avatar's preview in an <img>, at most `width` CSS pixels wide; fires its load or error event. */
export function showPreview(img, id, width) {
  const pixels = Math.round(width * (devicePixelRatio > 1.2 ? 2 : 1)); // two sizes at most for the server to make
  showPicture(img, avatarUrl(id, `/preview?width=${pixels}`));
}

/** Show a picture of a bundle in an <img>. */
export function showFile(img, id, path) {
  showPicture(img, fileUrl(id, path));
}

function showPicture(img, url) {
  if (!authorization().Authorization) {
    delete img.dataset.url;
    img.src = url;
    return;
  }
  img.dataset.url = url;
  nearby.observe(img);
}

async function fetchPicture(img) {
  const url = img.dataset.url;
  try {
    const response = await fetch(url, { headers: { Accept: "image/webp,*/*", ...authorization() } });
    if (!response.ok) throw new RequestFailed("", response.status);
    const address = URL.createObjectURL(await response.blob());
    if (img.dataset.url !== url) return; // meanwhile it shows another one
    img.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    img.src = address;
  } catch {
    if (img.dataset.url === url) img.dispatchEvent(new Event("error"));
  }
}
