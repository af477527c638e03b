// The dashboard works without this file. It keeps relative times current, completes search terms, adds keyboard shortcuts,
// and asks before unsaved edits are lost. `live.js` refreshes what has changed.
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
  for (const time of document.querySelectorAll("time[datetime]:not([data-absolute])")) {
    const text = relative(Date.parse(time.dateTime), now);
    if (time.textContent !== text) time.textContent = text;
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

// Charts: the figures of the time span under the pointer, at once. Without this file, the browser shows them after a while.
let tip = null;

function showTip(event) {
  const title = event.target.matches(".hit") && event.target.querySelector("title");
  if (title) {
    event.target.dataset.tip = title.textContent;
    title.remove();
  }
  const text = event.target.dataset && event.target.dataset.tip;
  if (!text) {
    if (tip) tip.hidden = true;
    return;
  }
  if (!tip || !tip.isConnected) {
    tip = document.createElement("div");
    tip.className = "chart-tip";
    tip.setAttribute("aria-hidden", "true");
    document.body.append(tip);
  }
  tip.hidden = false;
  tip.textContent = text;
  const left = event.clientX + 16 + tip.offsetWidth > window.innerWidth ? event.clientX - 16 - tip.offsetWidth : event.clientX + 16;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
}

// Keyboard.
let afterG = false;

function select(step) {
  // Not the rows of tables within a row that opens.
  const rows = [...document.querySelectorAll("main tbody tr, main [data-row]")].filter((row) => !row.closest(".lane-body"));
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

// The preview of a template follows what is typed.
const PREVIEW_MS = 600;
let previewTimer = null;

function previewSoon(form) {
  clearTimeout(previewTimer);
  previewTimer = setTimeout(() => {
    const button = document.getElementById(form.dataset.preview);
    const frame = button && document.querySelector(`iframe[name="${button.formTarget}"]`);
    if (!frame || document.hidden) return;
    // The first page of a new frame is not in the history, so "Back" still leads to the previous page.
    frame.replaceWith(frame.cloneNode());
    form.requestSubmit(button);
  }, PREVIEW_MS);
}

// The text of a chosen file goes into a field of the form.
function readFile(input) {
  const [file] = input.files;
  const field = document.getElementById(input.dataset.into);
  if (file && field) file.text().then((text) => { field.value = text; });
}

function onInput(event) {
  if (event.target.id === "search") suggest();
  const form = event.target.closest("form[data-preview]");
  if (form) previewSoon(form);
}

// Edits that were not saved. Submitting their form, or deleting what they are about, is no loss. Previews are shown in a
// frame, and their values are not saved.
let isSubmitting = false;

function warnOfLoss(event) {
  const form = document.querySelector("form[data-preview]");
  if (!form || isSubmitting) return;
  const fields = [...form.elements].filter((field) => field.matches(FIELDS) && field.name !== "variables");
  if (form.dataset.unsaved !== undefined || fields.some(isChanged)) event.preventDefault();
}

function onSubmit(event) {
  const isPreview = event.target.target || (event.submitter && event.submitter.formTarget);
  if (!isPreview && (event.target.matches("form[data-preview]") || event.target.action.endsWith("/delete"))) isSubmitting = true;
}

// A link to a lane opens it.
function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  const details = target && target.closest("details.lane");
  if (details) details.open = true;
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
document.addEventListener("pointermove", showTip, { passive: true });
document.addEventListener("input", onInput);
document.addEventListener("submit", onSubmit);
window.addEventListener("beforeunload", warnOfLoss);
document.addEventListener("change", (event) => { if (event.target.matches("[data-into]")) readFile(event.target); });
document.addEventListener("visibilitychange", showTimes);
document.addEventListener("htmx:responseError", showFailure);
document.addEventListener("htmx:sendError", showFailure);
document.addEventListener("htmx:afterSettle", showTimes);
window.addEventListener("hashchange", openTarget);
setInterval(showTimes, 10000);
openTarget();
for (const form of document.querySelectorAll("form[data-preview]")) previewSoon(form);
showTimes();
