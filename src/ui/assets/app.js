// The dashboard works without this file. It keeps relative times current, refreshes what has changed, completes search
// terms, and adds keyboard shortcuts.
"use strict";

// Times: the same rules as `relative` in src/ui/format.rs.
function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

function relative(at, now) {
  const delta = (now - at) / 1000;
  if (Math.abs(delta) < 5) return "just now";
  return delta > 0 ? `${span(delta)} ago` : `in ${span(-delta)}`;
}

function showTimes() {
  const now = Date.now();
  for (const time of document.querySelectorAll("time[datetime]")) {
    const text = relative(Date.parse(time.dateTime), now);
    if (time.textContent !== text) time.textContent = text;
  }
}

// Refreshing. Nothing is refreshed in a hidden tab, nor what has the focus, is being confirmed, or has selected text. htmx
// gives the focus back to elements with an id.
function isBusy(element) {
  const focused = document.activeElement;
  const isFocused = focused !== null && focused !== document.body && focused.id === "" && element.contains(focused);
  const selection = document.getSelection();
  const isSelecting = selection && !selection.isCollapsed && element.contains(selection.anchorNode);
  return document.hidden || isFocused || isSelecting || element.querySelector("details.confirm[open]") !== null;
}

// Refreshes the element and what is refreshed with it, unless one of them is busy. Returns whether it did.
function refresh(element) {
  const parts = (element.getAttribute("hx-select-oob") || "").split(",").filter(Boolean);
  const elements = [element, ...parts.map((part) => document.querySelector(part))].filter(Boolean);
  if (elements.some(isBusy)) return false;
  htmx.trigger(element, "refresh");
  return true;
}

const loadedAt = Date.now();
const lastPoll = new Map();

function poll() {
  for (const element of document.querySelectorAll("[data-poll]")) {
    const period = Number(element.dataset.poll) * 1000;
    if (Date.now() - (lastPoll.get(element.id) || loadedAt) >= period) {
      lastPoll.set(element.id, Date.now());
      refresh(element);
    }
  }
}

// What is open and selected stays so when it is replaced.
const wasOpen = new Map();
let selectedId = null;

function keepState(event) {
  wasOpen.clear();
  for (const details of event.detail.target.querySelectorAll("details[id]")) wasOpen.set(details.id, details.open);
  const selected = event.detail.target.querySelector(".is-selected");
  selectedId = selected ? selected.id : null;
}

function restoreState() {
  for (const [id, isOpen] of wasOpen) {
    const details = document.getElementById(id);
    if (details) details.open = isOpen;
  }
  wasOpen.clear();
  const selected = selectedId && document.getElementById(selectedId);
  if (selected) selected.classList.add("is-selected");
}

// Live events. Ids of changed messages are collected, and handled together. A later connection continues after the last
// event.
const LIVE_KINDS = ["accepted", "scheduled", "canceled", "deferred", "relayed", "delivered", "bounced", "expired", "suppressed",
  "uncertain", "complained", "unsubscribed"];
const RECONNECT_MS = 5000;
let source = null;
let reconnect = null;
let lastId = null;
const changed = new Set();
const accepted = new Set();

function connect() {
  const isWanted = !document.hidden && document.querySelector("[data-live]") !== null;
  if (isWanted && source === null) {
    clearTimeout(reconnect);
    source = new EventSource(lastId === null ? "/ui/live" : `/ui/live?after=${encodeURIComponent(lastId)}`);
    for (const kind of LIVE_KINDS) source.addEventListener(`message.${kind}`, note);
    source.onerror = onLiveError;
  } else if (!isWanted && source !== null) {
    source.close();
    source = null;
  }
}

// The browser itself reconnects after a lost connection, but not after a response other than 200.
function onLiveError() {
  if (source === null || source.readyState !== EventSource.CLOSED) return;
  source = null;
  reconnect = setTimeout(connect, RECONNECT_MS);
}

function note(event) {
  if (event.lastEventId) lastId = event.lastEventId;
  const data = JSON.parse(event.data).data;
  if (!data.message_id) return;
  (event.type === "message.accepted" ? accepted : changed).add(data.message_id);
}

// Rows refreshed at once; the others follow a second later.
const MAX_ROWS = 10;

function applyEvents() {
  if (changed.size === 0 && accepted.size === 0) return;
  const live = document.querySelector("[data-live]");
  if (!live || document.hidden) return;
  if (live.dataset.live === "message") {
    const isDone = !changed.has(live.dataset.id) || refresh(live);
    changed.clear();
    accepted.clear();
    if (!isDone) changed.add(live.dataset.id);
    return;
  }
  refreshRows(live);
  showNewCount(live);
}

function refreshRows(live) {
  const rows = [...live.querySelectorAll("tr[data-id]")].filter((row) => changed.has(row.dataset.id));
  changed.clear();
  for (const row of rows.slice(MAX_ROWS)) changed.add(row.dataset.id);
  for (const row of rows.slice(0, MAX_ROWS)) {
    const isSelected = row.classList.contains("is-selected");
    const isFocused = row.contains(document.activeElement);
    htmx.ajax("GET", `/ui/messages/${row.dataset.id}/row`, { target: row, swap: "outerHTML" }).then(() => {
      const fresh = live.querySelector(`tr[data-id="${CSS.escape(row.dataset.id)}"]`);
      if (!fresh) return;
      fresh.classList.add("is-new", ...(isSelected ? ["is-selected"] : []));
      if (isFocused) fresh.querySelector("a.row-link").focus({ preventScroll: true });
    });
  }
}

function showNewCount(live) {
  const fresh = live.querySelector(".new-rows");
  const query = new URLSearchParams(location.search);
  // Whether a new message matches a search is unknown here.
  const isNewest = !query.get("after") && !query.get("q");
  if (fresh && isNewest && accepted.size > 0) {
    fresh.hidden = false;
    fresh.querySelector("[data-new-count]").textContent = accepted.size > 99 ? "99+" : String(accepted.size);
    fresh.querySelector("a").href = location.href;
  }
}

// A search that failed says so where its results would be.
function showFailure(event) {
  const results = document.getElementById("results");
  if (!results || event.detail.target !== results) return;
  const xhr = event.detail.xhr;
  // A failed refresh leaves what is shown; the next one follows by itself.
  if (event.detail.elt === results) return;
  const text = xhr && xhr.status ? `The search failed (${xhr.status}).` : "The search failed: no connection.";
  let failure = results.querySelector("[data-failure]");
  if (!failure) {
    failure = document.createElement("p");
    failure.className = "note note-bad";
    failure.dataset.failure = "";
    failure.setAttribute("role", "alert");
    results.prepend(failure);
  }
  failure.textContent = `${text} Change the terms, or search again.`;
}

// Suggestions complete the last term of the search box. Browsers compare them with the whole text, so the terms before are
// part of each.
let terms = null;

function suggest() {
  const search = document.getElementById("search");
  const list = search && search.list;
  if (!list) return;
  terms = terms || [...list.options].map((option) => option.value);
  const before = search.value.slice(0, search.value.search(/\S*$/));
  const last = search.value.slice(before.length);
  const found = terms.filter((term) => term !== last && term.startsWith(last));
  list.replaceChildren(...found.map((term) => new Option("", before + term)));
}

// Keyboard.
let afterG = false;

function select(step) {
  const rows = [...document.querySelectorAll("main tbody tr, main [data-row]")];
  if (rows.length === 0) return;
  const current = rows.findIndex((row) => row.classList.contains("is-selected"));
  const next = Math.min(Math.max(current + step, 0), rows.length - 1);
  if (current >= 0) rows[current].classList.remove("is-selected");
  rows[next].classList.add("is-selected");
  rows[next].scrollIntoView({ block: "nearest" });
  const link = rows[next].matches("summary") ? rows[next] : rows[next].querySelector("a.row-link");
  if (link) link.focus({ preventScroll: true });
}

// Closes open forms and menus. The focus goes back to what opened the one that has it.
function closeAll() {
  for (const open of document.querySelectorAll(CLOSABLE)) {
    const hasFocus = open.contains(document.activeElement);
    open.open = false;
    if (hasFocus) open.querySelector("summary").focus();
  }
}

const CLOSABLE = "details.confirm[open], details.menu[open], details.account[open]";

function onKey(event) {
  const isTyping = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    const isInForm = event.target.closest(CLOSABLE) !== null;
    closeAll();
    if (isTyping && !isInForm) event.target.blur();
    return;
  }
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (afterG) {
    afterG = false;
    const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
    if (link) {
      event.preventDefault();
      link.click();
    }
    return;
  }
  switch (event.key) {
    case "g":
      afterG = true;
      setTimeout(() => { afterG = false; }, 1500);
      break;
    case "j":
      select(1);
      break;
    case "k":
      select(-1);
      break;
    case "/": {
      const search = document.getElementById("search");
      if (search) {
        event.preventDefault();
        search.focus();
        search.select();
      }
      break;
    }
    case "?":
      document.getElementById("help").showModal();
      break;
  }
}

function onClick(event) {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    navigator.clipboard.writeText(copy.dataset.copy).then(() => {
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    return;
  }
  for (const open of document.querySelectorAll(CLOSABLE)) {
    if (!open.contains(event.target)) open.open = false;
  }
}

// A link to a lane opens it.
function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  const details = target && target.closest("details.lane");
  if (details) details.open = true;
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
document.addEventListener("input", (event) => { if (event.target.id === "search") suggest(); });
document.addEventListener("visibilitychange", () => {
  connect();
  showTimes();
});
document.addEventListener("htmx:beforeSwap", keepState);
document.addEventListener("htmx:afterSwap", restoreState);
document.addEventListener("htmx:responseError", showFailure);
document.addEventListener("htmx:sendError", showFailure);
document.addEventListener("htmx:afterSettle", showTimes);
window.addEventListener("hashchange", openTarget);
setInterval(showTimes, 10000);
setInterval(poll, 1000);
setInterval(applyEvents, 1000);
openTarget();
connect();
showTimes();
