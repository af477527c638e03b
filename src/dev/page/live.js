// Reloads a list when something new arrives. Does not poll while the page is hidden, and waits while a field has the focus.
const main = document.querySelector("main[data-live]");

const once = (target, event) => new Promise((done) => target.addEventListener(event, done, { once: true }));
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function watch() {
  for (;;) {
    if (document.hidden) {
      await once(document, "visibilitychange");
      continue;
    }
    try {
      const response = await fetch(`${main.dataset.live}?after=${main.dataset.last}&wait=20`);
      if (response.ok && (await response.json()).data.length > 0) {
        break;
      }
      await pause(response.ok ? 250 : 3000);
    } catch {
      await pause(3000);
    }
  }
  if (document.activeElement instanceof HTMLInputElement) {
    await once(document.activeElement, "blur");
  }
  location.reload();
}

if (main) {
  watch();
}
