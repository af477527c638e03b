// The dashboard works without this file. It keeps relative times current, refreshes what has changed, and adds keys of
// the keyboard.
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

// Refreshing. Nothing is refreshed in a hidden tab, nor what has the focus, is being confirmed, or has selected text.
function isBusy(element) {
  const focused = document.activeElement;
  const isFocused = focused !== null && focused !== document.body && element.contains(focused);
  const selection = document.getSelection();
  const isSelecting = selection && !selection.isCollapsed && element.contains(selection.anchorNode);
  return document.hidden || isFocused || isSelecting || element.querySelector("details.confirm[open]") !== null;
}

function refresh(element) {
  if (!isBusy(element)) htmx.trigger(element, "refresh");
}

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

const loadedAt = Date.now();

// Live events. Ids of changed messages are collected, and handled together.
let source = null;
let changed = new Set();
let accepted = new Set();

function connect() {
  const isWanted = !document.hidden && document.querySelector("[data-live]") !== null;
  if (isWanted && source === null) {
    source = new EventSource("/ui/live");
    for (const kind of LIVE_KINDS) source.addEventListener(`message.${kind}`, note);
  } else if (!isWanted && source !== null) {
    source.close();
    source = null;
  }
}

const LIVE_KINDS = ["accepted", "scheduled", "canceled", "deferred", "relayed", "delivered", "bounced", "expired", "suppressed",
  "uncertain", "complained", "unsubscribed"];

function note(event) {
  const data = JSON.parse(event.data).data;
  if (!data.message_id) return;
  (event.type === "message.accepted" ? accepted : changed).add(data.message_id);
}

function applyEvents() {
  if (changed.size === 0 && accepted.size === 0) return;
  const live = document.querySelector("[data-live]");
  if (!live || document.hidden) return;
  const ids = changed;
  changed = new Set();
  if (live.dataset.live === "message") {
    accepted = new Set();
    if (ids.has(live.dataset.id)) refresh(live);
    return;
  }
  const rows = [...live.querySelectorAll("tr[data-id]")].filter((row) => ids.has(row.dataset.id));
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

// Rows refreshed at once; the others follow with the next event about them.
const MAX_ROWS = 10;

// Keyboard.
let afterG = false;

function select(step) {
  const rows = [...document.querySelectorAll("main tbody tr")];
  if (rows.length === 0) return;
  const current = rows.findIndex((row) => row.classList.contains("is-selected"));
  const next = Math.min(Math.max(current + step, 0), rows.length - 1);
  if (current >= 0) rows[current].classList.remove("is-selected");
  rows[next].classList.add("is-selected");
  rows[next].scrollIntoView({ block: "nearest" });
  const link = rows[next].querySelector("a.row-link");
  if (link) link.focus({ preventScroll: true });
}

function onKey(event) {
  const isTyping = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    for (const open of document.querySelectorAll("details.confirm[open]")) open.open = false;
    if (isTyping) event.target.blur();
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
  for (const open of document.querySelectorAll("details.confirm[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
document.addEventListener("visibilitychange", () => {
  connect();
  showTimes();
});
document.addEventListener("htmx:afterSettle", showTimes);
setInterval(showTimes, 10000);
setInterval(poll, 1000);
setInterval(applyEvents, 1000);
connect();
showTimes();
