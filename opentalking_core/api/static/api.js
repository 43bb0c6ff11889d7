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
const MAX_IMAGE_BYTES = 10 * 1024 * 1024;

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
 * Make an avatar; its summary is returned.
 * onProgress is called with the share of the form that is sent, 0 to 1. An aborted signal rejects with AbortError.
 */
export async function createAvatar(form, onProgress, signal) {
  for (;;) {
    const { status, text } = await send(form, onProgress, signal);
    if (status === 200) return JSON.parse(text);
    if (status !== 401 || !(await askForKey(detail(text, status)))) throw new RequestFailed(detail(text, status), status);
  }
}

// With XMLHttpRequest, because fetch doesn't tell how far an upload is.
function send(form, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("POST", "avatars/custom");
    for (const [name, value] of Object.entries(authorization())) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    xhr.upload.onload = () => onProgress(1);
    xhr.onload = () => resolve({ status: xhr.status, text: xhr.responseText });
    xhr.onerror = () => reject(new RequestFailed(UNREACHABLE));
    xhr.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    signal.addEventListener("abort", () => xhr.abort());
    xhr.send(form);
  });
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

/** Why a file can't be a portrait, as far as can be told without reading it; "" if nothing speaks against it. */
export function refusal(file) {
  if (!["image/jpeg", "image/png", "image/webp"].includes(file.type)) {
    return `“${file.name}” is not a JPEG, PNG or WebP picture. Choose another one.`;
  }
  if (file.size > MAX_IMAGE_BYTES) {
    const size = (file.size / 1024 / 1024).toFixed(1);
    return `“${file.name}” has ${size} MB; at most 10 MB are accepted. Choose a smaller picture.`;
  }
  return file.size ? "" : `“${file.name}” is empty. Choose another picture.`;
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
  const url = avatarUrl(id, `/preview?width=${pixels}`);
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
