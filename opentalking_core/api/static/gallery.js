// The grid of avatars. The whole list is loaded (some 10 KB for 1,000 avatars, compressed; 304 if nothing changed) and
// searched here, so that results come with each key pressed; cards and thumbnails are made only as far as one scrolls.

import { listAvatars, showPreview } from "./api.js";
import { openCreate, startCreate } from "./create.js";
import { detailLink, showCreated, startDetail } from "./detail.js";
import { followEvents } from "./follow.js";
import { $, element, initial, notify } from "./dom.js";
import { offerKeyChange } from "./key.js";

const PAGE = 60; // cards
const THUMBNAIL_WIDTH = 256; // in CSS pixels, a little more than a card's

const byName = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
let avatars = []; // the summaries, by name
let matching = []; // those that the filters let through
let cards = new Map(); // id -> {summary, node}

async function load() {
  try {
    avatars = await listAvatars();
  } catch (error) {
    if (!avatars.length) {
      $("count").textContent = "";
      showMessage("The avatars can’t be shown", [element("p", "", error.message)], "Try again", load);
    } else {
      notify(error.message);
    }
    return;
  }
  avatars.sort((a, b) => byName.compare(title(a), title(b)) || byName.compare(a.id, b.id));
  offerModelTypes();
  show();
}

function title(summary) {
  return summary.name || summary.id;
}

function offerModelTypes() {
  const select = $("model-type");
  const chosen = select.value;
  const types = [...new Set(avatars.map((avatar) => avatar.model_type))].sort(byName.compare);
  select.replaceChildren(select.options[0], ...types.map((type) => new Option(type, type)));
  select.value = types.includes(chosen) ? chosen : "";
}

/** Show what matches the filters. */
function show() {
  const wanted = folded($("search").value.trim());
  const type = $("model-type").value;
  const customOnly = $("custom-only").checked;
  matching = avatars.filter(
    (avatar) =>
      (!type || avatar.model_type === type) &&
      (!customOnly || avatar.is_custom) &&
      (folded(title(avatar)).includes(wanted) || folded(avatar.id).includes(wanted)),
  );
  const old = cards;
  cards = new Map();
  for (const avatar of avatars) {
    const known = old.get(avatar.id);
    if (known && JSON.stringify(known.summary) === JSON.stringify(avatar)) cards.set(avatar.id, known);
  }
  $("grid").replaceChildren();
  $("message").hidden = true;
  $("filters").hidden = avatars.length === 0;
  $("count").textContent = counted();
  showMore();
  if (!avatars.length) {
    const text = $("empty-text").content.cloneNode(true);
    showMessage("No avatars yet", [text], "Look again", load);
  } else if (!matching.length) {
    showMessage("Nothing matches", [element("p", "", "Try other words, or fewer filters.")], "Clear filters", clear);
  }
}

function folded(text) {
  return text.normalize("NFKC").toLowerCase();
}

function counted() {
  if (!avatars.length) return "";
  const all = avatars.length === 1 ? "1 avatar" : `${avatars.length.toLocaleString()} avatars`;
  return matching.length === avatars.length ? all : `${matching.length.toLocaleString()} of ${all}`;
}

/** Add the next cards to the grid. */
function showMore() {
  const grid = $("grid");
  const shown = grid.childElementCount;
  grid.append(...matching.slice(shown, shown + PAGE).map(card));
  $("more").hidden = grid.childElementCount >= matching.length;
}

function card(summary) {
  let known = cards.get(summary.id);
  if (!known) {
    known = { summary, node: newCard(summary) };
    cards.set(summary.id, known);
  }
  return known.node;
}

function newCard(summary) {
  const node = $("card").content.firstElementChild.cloneNode(true);
  const part = (selector) => node.querySelector(selector);
  part("a").href = detailLink(summary.id);
  part(".card-name").textContent = title(summary);
  part(".card-type").textContent = summary.model_type;
  part(".badge").hidden = !summary.is_custom;
  part(".placeholder").textContent = initial(title(summary));
  const img = part("img");
  img.addEventListener("error", () => {
    img.hidden = true;
    part(".placeholder").hidden = false;
  });
  showPreview(img, summary.id, THUMBNAIL_WIDTH);
  return node;
}

function showMessage(heading, body, action, onAction) {
  const message = $("message");
  message.querySelector("h2").textContent = heading;
  message.querySelector(".message-body").replaceChildren(...body);
  message.querySelector("button").textContent = action;
  message.querySelector("button").onclick = onAction;
  message.hidden = false;
}

function clear() {
  $("filters").reset();
  show();
  $("search").focus();
}

function takeDrops() {
  let depth = 0; // of the elements that a dragged file has entered
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  const over = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    $("drop-hint").hidden = depth === 0 || $("create").open;
    $("drop-zone").classList.toggle("over", depth > 0);
  };
  addEventListener("dragenter", (event) => hasFile(event) && over(+1));
  addEventListener("dragleave", (event) => hasFile(event) && over(-1));
  addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault(); // a browser would leave the page and show the file
    over(0);
    if (event.dataTransfer.files[0] && !document.querySelector("dialog[open]:not(#create)")) {
      openCreate(avatars, event.dataTransfer.files[0]);
    }
  });
}

$("filters").addEventListener("input", show);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("more").addEventListener("click", () => {
  const next = $("grid").childElementCount;
  showMore();
  $("grid").children[next]?.querySelector("a").focus();
});
const nearEnd = new IntersectionObserver(
  ([entry]) => {
    if (!entry.isIntersecting) return;
    showMore();
    nearEnd.unobserve($("more")); // observed anew, it is reported again if it is still that near
    nearEnd.observe($("more"));
  },
  { rootMargin: "800px" },
);
nearEnd.observe($("more"));
$("new-avatar").addEventListener("click", () => openCreate(avatars));
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && load());
takeDrops();
followEvents(load);
offerKeyChange(() => {
  cards.clear(); // pictures that were refused may be had now
  load();
});
startCreate(
  (summary) => {
    showCreated(summary.id);
    load();
  },
  load, // the service may have been done already
);
startDetail((id) => {
  avatars = avatars.filter((avatar) => avatar.id !== id);
  show();
  $("avatars").focus({ preventScroll: true });
});
load();
