//! What holds for every page, in a wide and in a narrow window, light and dark.

use serde_json::{Value, json};

use super::pages::{HOSTILE, filled};
use super::webdriver::Chromium;
use crate::support::dev::{Dev, directory};

/// Collects what a page must not have: elements and attributes that no template has, requests to other hosts, and content
/// that is wider than the window.
const INSPECT: &str = r"
  const faults = [];
  if (window.hacked !== undefined) faults.push('a text of a stranger ran');
  for (const element of document.querySelectorAll('*')) {
    for (const attribute of element.attributes) {
      if (attribute.name.startsWith('on') || attribute.value === '/x' || attribute.value === 'x') {
        faults.push(`<${element.localName} ${attribute.name}>`);
      }
    }
  }
  for (const entry of performance.getEntriesByType('resource')) {
    if (!entry.name.startsWith(location.origin + '/') && !entry.name.startsWith('data:')) faults.push(entry.name);
  }
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) {
    const wide = [...document.querySelectorAll('main *')].find((one) => one.getBoundingClientRect().right > clientWidth);
    faults.push(`${scrollWidth} px wide: ${wide ? wide.outerHTML.slice(0, 120) : '?'}`);
  }
  return faults;";

/// Returns whether the browser reports what it did not run or load in the frame with a message's HTML.
fn is_about_preview(entry: &Value) -> bool {
    let text = entry["message"].as_str().unwrap_or_default();
    text.contains("/html") && (text.contains("Blocked script execution") || text.contains("Content Security Policy"))
}

#[tokio::test]
async fn every_page_is_clean_in_every_window() {
    let filled = Box::pin(filled()).await;
    let Some(browser) = Chromium::start(&filled.app.base).await else { return };
    browser.sign_in(&filled.app.key).await;
    inspect(&browser, &filled.paths).await;
}

#[tokio::test]
async fn inbox_is_clean_in_every_window() {
    let dir = directory();
    let dev = Dev::start(dir.path()).await;
    let Some(browser) = Chromium::start(dev.fact("api")).await else { return };
    let api = dev.api("api_key");
    let attachment = json!({"filename": format!("{HOSTILE}.txt"), "content": "SGk="});
    api.send(json!({
        "from": {"email": "billing@acme.test", "name": HOSTILE}, "subject": HOSTILE, "text": HOSTILE, "html": HOSTILE,
        "headers": {"X-Note": "<b onclick=hack()>"}, "attachments": [attachment],
    }))
    .await;
    assert_eq!(api.get("/v1/dev/inbox/1?wait=30").await.status, 200);
    browser.sign_in(dev.fact("admin_key")).await;
    let tabs = ["preview", "text", "headers", "attachments"].map(|tab| format!("/ui/inbox/1?tab={tab}"));
    let paths: Vec<String> = ["/ui/inbox", "/ui/inbox/1"].map(str::to_owned).into_iter().chain(tabs).collect();
    inspect(&browser, &paths).await;
    drop(browser);
    assert!(dev.stop().await.success());
}

#[tokio::test]
async fn every_section_of_the_navigation_is_looked_at() {
    let filled = Box::pin(filled()).await;
    let Some(browser) = Chromium::start(&filled.app.base).await else { return };
    browser.sign_in(&filled.app.key).await;
    browser.open("/ui").await;
    let links = "return [...document.querySelectorAll('nav[aria-label=Sections] a[data-key]')]
        .map((link) => link.getAttribute('href'))";
    let Value::Array(links) = browser.run(links).await else { panic!("no list") };
    assert!(links.len() > 12, "{links:?}");
    for link in links {
        assert!(filled.paths.iter().any(|path| path == &link), "{link} is not looked at");
    }
}

/// Looks at these pages in every window.
async fn inspect(browser: &Chromium, paths: &[String]) {
    let mut faults = Vec::new();
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")] {
        browser.look(width, scheme).await;
        for path in paths {
            browser.open(path).await;
            let found = browser.run(INSPECT).await;
            let mut complaints = browser.complaints().await;
            complaints.retain(|entry| !is_about_preview(entry));
            if found != json!([]) || !complaints.is_empty() {
                faults.push(format!("{width} {scheme} {path}: {found} {complaints:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn violations_would_be_noticed() {
    let filled = Box::pin(filled()).await;
    let Some(browser) = Chromium::start(&filled.app.base).await else { return };
    browser.sign_in(&filled.app.key).await;
    browser.complaints().await;
    let inline = "const script = document.createElement('script'); script.textContent = 'window.hacked = 1';
        document.body.append(script); return window.hacked === undefined";
    assert_eq!(browser.run(inline).await, json!(true), "the policy of the page does not apply");
    assert!(!browser.complaints().await.is_empty(), "a violation of the policy is not in the log");
    browser.run("document.querySelector('main').insertAdjacentHTML('beforeend', '<p onclick=x>')").await;
    let Value::Array(found) = browser.run(INSPECT).await else { panic!("no list") };
    assert!(found.contains(&json!("<p onclick>")), "{found:?}");
}

#[tokio::test]
async fn dark_pages_are_dark() {
    let filled = Box::pin(filled()).await;
    let Some(browser) = Chromium::start(&filled.app.base).await else { return };
    browser.sign_in(&filled.app.key).await;
    let background = "return getComputedStyle(document.body).backgroundColor";
    browser.look(1280, "light").await;
    let light = browser.run(background).await;
    browser.look(1280, "dark").await;
    let dark = browser.run(background).await;
    assert_eq!((light, dark), (json!("rgb(250, 250, 250)"), json!("rgb(14, 14, 17)")));
}
