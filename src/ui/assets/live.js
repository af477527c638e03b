// Live updates. What changes is refreshed, and what is selected, open or being typed stays. The attributes of an element:
//   data-live="messages"  the list of messages: its rows are refreshed one by one, and new messages are counted
//   data-live="message"   refreshed after an event of the message with the id in data-id
//   data-live="events"    refreshed after any event of the tenant
//   data-every="5"        at most once in this number of seconds, also after the page was loaded; the default is 1
//   data-poll="5"         refreshed each time this number of seconds has passed, for changes that no event reports
// Such an element has an id. All but the list of messages have `hx-get`, `hx-select` and `hx-trigger="refresh"`. A form in
// one is in a `details.confirm` with an id.
"use strict";

// What must not be replaced.
const FIELDS = "input:not([type=hidden]), select, textarea";

function isChanged(field) {
  if (field.matches("[type=checkbox], [type=radio]")) return field.checked !== field.defaultChecked;
  if (field.matches("select")) {
    const initial = [...field.options].findIndex((option) => option.defaultSelected);
    return field.selectedIndex !== Math.max(initial, 0);
  }
  return field.value !== field.defaultValue;
}

function hasInput(element) {
  return [...element.querySelectorAll(FIELDS)].some(isChanged);
}

// Such a form stays as it is while everything around it is refreshed.
function isInUse(form) {
  return form.open || form.contains(document.activeElement) || hasInput(form);
}

function isSelecting(element) {
  const selection = document.getSelection();
  return selection !== null && !selection.isCollapsed && element.contains(selection.anchorNode);
}

// Nothing is refreshed in a hidden tab, while somebody types or selects text in it, or while it has input outside of a form
// that can stay. htmx gives the focus back to elements with an id.
function isBusy(element) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const canStay = (one) => one.closest("details.confirm[id]") !== null;
  const isTyping = focused !== null && focused.matches(FIELDS);
  const wouldLoseFocus = focused !== null && focused.id === "" && !canStay(focused);
  const hasOtherInput = [...element.querySelectorAll(FIELDS)].some((field) => !canStay(field) && isChanged(field));
  const hasOtherForm = element.querySelector("details.confirm[open]:not([id])") !== null;
  return document.hidden || isTyping || wouldLoseFocus || hasOtherInput || hasOtherForm || isSelecting(element);
}

// Returns the element and what is refreshed with it.
function partsOf(element) {
  const others = (element.getAttribute("hx-select-oob") || "").split(",").filter(Boolean);
  return [element, ...others.map((part) => document.querySelector(part.split(":")[0]))].filter(Boolean);
}

// Refreshing. Ids of the elements that have to be refreshed, as soon as they are not busy.
const wanted = new Set();
const refreshedAt = new Map();
const polledAt = new Map();
const loadedAt = Date.now();

function poll() {
  for (const element of document.querySelectorAll("[data-poll]")) {
    const last = polledAt.get(element.id) || loadedAt;
    if (Date.now() - last < Number(element.dataset.poll) * 1000) continue;
    polledAt.set(element.id, Date.now());
    wanted.add(element.id);
  }
}

function refreshWanted() {
  for (const id of wanted) {
    const element = document.getElementById(id);
    if (!element || !element.hasAttribute("hx-get")) {
      wanted.delete(id);
      continue;
    }
    const interval = Number(element.dataset.every || 1) * 1000;
    if (Date.now() - (refreshedAt.get(id) || loadedAt) < interval || partsOf(element).some(isBusy)) continue;
    wanted.delete(id);
    refreshedAt.set(id, Date.now());
    htmx.trigger(element, "refresh");
  }
}

// What is kept when an element is replaced.
let kept = null;

function keepState(event) {
  const { target, requestConfig, serverResponse, shouldSwap } = event.detail;
  kept = null;
  if (!shouldSwap) return;
  const isRefresh = requestConfig.elt === target;
  const parts = isRefresh ? partsOf(target) : [target];
  const all = (selector) => parts.flatMap((part) => [...part.querySelectorAll(selector)]);
  const forms = isRefresh ? all("details.confirm[id]").filter(isInUse) : [];
  if (isRefresh && parts.some(isBusy)) {
    event.preventDefault();
    wanted.add(target.id);
    return;
  }
  // Something would be lost: the form of a row that is not in the list any more, or a part that could not be read. The next
  // event or poll tries again.
  const has = (one) => serverResponse.includes(`id="${one.id}"`);
  if (isRefresh && !(has(target) && forms.every(has))) {
    event.preventDefault();
    return;
  }
  const selected = all(".is-selected")[0];
  kept = {
    open: all("details[id]").map((details) => [details.id, details.open]),
    selected: selected ? selected.id : "",
    forms,
    focused: document.activeElement,
    scrolled: all(".table-box").map((box) => box.scrollLeft),
    ids: parts.map((part) => part.id),
  };
}

function restoreState() {
  if (kept === null) return;
  const { open, selected, forms, focused, scrolled, ids } = kept;
  kept = null;
  for (const [id, isOpen] of open) {
    const details = document.getElementById(id);
    if (details) details.open = isOpen;
  }
  for (const form of forms) {
    const fresh = document.getElementById(form.id);
    if (!fresh || fresh === form) continue;
    fresh.replaceWith(form);
    if (form.contains(focused)) focused.focus({ preventScroll: true });
  }
  const row = selected && document.getElementById(selected);
  if (row) row.classList.add("is-selected");
  const parts = ids.map((id) => document.getElementById(id)).filter(Boolean);
  const boxes = parts.flatMap((part) => [...part.querySelectorAll(".table-box")]);
  boxes.forEach((box, n) => { box.scrollLeft = scrolled[n] || 0; });
}

// The event stream. It is closed in a hidden tab. Whenever it is opened, everything live is refreshed once, for what
// happened before. If it is lost, for example because the service restarts, it is opened again after a growing pause.
const KINDS = ["message.accepted", "message.scheduled", "message.canceled", "message.deferred", "message.relayed",
  "message.delivered", "message.bounced", "message.expired", "message.suppressed", "message.uncertain",
  "message.complained", "message.unsubscribed", "message.redacted", "message.rejected"];
const MIN_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 30000;
// Failures after which the page says that it is not current.
const FAILURES_TO_REPORT = 3;
let source = null;
let reconnect = null;
let failures = 0;

// Pages other than the list of messages need not know what has happened, only that something has.
function livePath() {
  if (document.querySelector("[data-live=messages]")) return "/ui/live";
  const message = document.querySelector("[data-live=message]");
  if (message) return `/ui/live?digest=true&message_id=${encodeURIComponent(message.dataset.id)}`;
  return document.querySelector("[data-live]") ? "/ui/live?digest=true" : null;
}

function connect() {
  clearTimeout(reconnect);
  const path = document.hidden ? null : livePath();
  if (path === null) {
    if (source !== null) source.close();
    source = null;
  } else if (source === null) {
    source = new EventSource(path);
    source.onopen = onOpen;
    source.onerror = onLost;
    source.addEventListener("changed", catchUp);
    for (const kind of KINDS) source.addEventListener(kind, note);
  }
}

function onOpen() {
  failures = 0;
  showConnection();
  const list = document.querySelector("[data-live=messages]");
  if (list) catchUpRows(list);
  catchUp();
}

function onLost() {
  source.close();
  source = null;
  failures += 1;
  showConnection();
  const pause = Math.min(MIN_PAUSE_MS * 2 ** (failures - 1), MAX_PAUSE_MS);
  // Open pages must not all come back in the same moment.
  reconnect = setTimeout(connect, pause * (0.5 + Math.random() / 2));
}

function showConnection() {
  const lost = document.getElementById("connection-lost");
  if (lost) lost.hidden = failures < FAILURES_TO_REPORT;
}

function catchUp() {
  for (const element of document.querySelectorAll("[data-live]")) wanted.add(element.id);
}

// The list of messages. Ids of messages are collected, and handled together.
const changed = new Set();
const accepted = new Set();
// Rows refreshed at once; the others follow a second later.
const MAX_ROWS = 10;

function note(event) {
  const data = JSON.parse(event.data).data;
  if (data.message_id) (event.type === "message.accepted" ? accepted : changed).add(data.message_id);
}

// Loads a page or a part of one.
async function load(path) {
  const response = await fetch(path, { headers: { "HX-Request": "true" } }).catch(() => null);
  if (response !== null && response.status === 401) location.reload();
  if (response === null || !response.ok) return null;
  const template = document.createElement("template");
  template.innerHTML = await response.text();
  return template.content;
}

// Without the time, which changes by itself.
function textOf(row) {
  return [...row.cells].slice(0, -1).map((cell) => cell.textContent).join("\n");
}

function replaceRow(row, fresh) {
  if (!row.isConnected || textOf(row) === textOf(fresh)) return;
  if (isSelecting(row)) {
    changed.add(row.dataset.id);
    return;
  }
  const isFocused = row.contains(document.activeElement);
  if (row.classList.contains("is-selected")) fresh.classList.add("is-selected");
  fresh.classList.add("is-new");
  row.replaceWith(fresh);
  if (isFocused) fresh.querySelector("a.row-link").focus({ preventScroll: true });
  showTimes();
}

// Compares the rows with those of the page as it is now: for events that were missed.
async function catchUpRows(list) {
  const page = await load(location.href);
  if (page === null || !list.isConnected) return;
  const shown = new Map([...list.querySelectorAll("tr[data-id]")].map((row) => [row.dataset.id, row]));
  for (const fresh of page.querySelectorAll("#results tr[data-id]")) {
    const row = shown.get(fresh.dataset.id);
    if (row) replaceRow(row, fresh);
    else accepted.add(fresh.dataset.id);
    shown.delete(fresh.dataset.id);
  }
  for (const id of shown.keys()) changed.add(id);
}

function refreshRows(list) {
  const rows = [...list.querySelectorAll("tr[data-id]")].filter((row) => changed.has(row.dataset.id));
  changed.clear();
  for (const row of rows.slice(MAX_ROWS)) changed.add(row.dataset.id);
  for (const row of rows.slice(0, MAX_ROWS)) {
    load(`/ui/messages/${row.dataset.id}/row`).then((part) => {
      const fresh = part && part.querySelector("tr");
      if (fresh) replaceRow(row, fresh);
    });
  }
}

function showNewCount(list) {
  const fresh = list.querySelector(".new-rows");
  const query = new URLSearchParams(location.search);
  // Whether a new message matches a search is unknown here.
  const isNewest = !query.get("after") && !query.get("q");
  if (fresh && isNewest && accepted.size > 0) {
    fresh.hidden = false;
    fresh.querySelector("[data-new-count]").textContent = accepted.size > 99 ? "99+" : String(accepted.size);
    fresh.querySelector("a").href = location.href;
  }
}

function everySecond() {
  if (document.hidden) return;
  poll();
  refreshWanted();
  const list = document.querySelector("[data-live=messages]");
  if (!list) return;
  refreshRows(list);
  showNewCount(list);
}

document.addEventListener("visibilitychange", () => {
  connect();
  everySecond();
});
document.addEventListener("htmx:beforeSwap", keepState);
document.addEventListener("htmx:afterSwap", restoreState);
setInterval(everySecond, 1000);
connect();
