//! The rules of axe-core, on every page.

use std::path::PathBuf;

use serde_json::Value;

use super::pages::filled;
use super::webdriver::{Chromium, skip};
use crate::support::python;

/// Has a copy of axe-core, and needs no other package.
const PACKAGE: &str = "axe-core-python==0.1.0";

/// Returns the faults that people cannot get around, and the elements that have them.
const CHECK: &str = r"
  const done = arguments[arguments.length - 1];
  axe.run(document, { resultTypes: ['violations'], iframes: false }).then((result) => done(result.violations
    .filter((one) => ['serious', 'critical'].includes(one.impact))
    .map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 160)).join(' | ')}`)));";

/// Reads axe-core from the package.
async fn axe() -> Option<String> {
    let python = python::with_packages(&[PACKAGE], "axe_core_python").await?;
    let library = python.parent()?.parent()?.join("lib");
    let versions = std::fs::read_dir(library).ok()?.filter_map(Result::ok);
    let file = |dir: PathBuf| dir.join("site-packages/axe_core_python/axe.min.js");
    versions.map(|entry| file(entry.path())).find_map(|path| std::fs::read_to_string(path).ok())
}

#[tokio::test]
async fn no_page_has_a_serious_fault() {
    let Some(axe) = axe().await else {
        return skip("this test needs the file axe.min.js of the package axe-core-python");
    };
    let filled = Box::pin(filled()).await;
    let Some(browser) = Chromium::start(&filled.app.base).await else { return };
    browser.open("/ui/login").await;
    let mut faults = check(&browser, &axe, "/ui/login").await;
    browser.sign_in(&filled.app.key).await;
    for (width, scheme) in [(1280, "light"), (390, "dark")] {
        browser.look(width, scheme).await;
        for path in &filled.paths {
            browser.open(path).await;
            browser.run("for (const one of document.querySelectorAll('details')) one.open = true").await;
            faults.extend(check(&browser, &axe, &format!("{width} {scheme} {path}")).await);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

async fn check(browser: &Chromium, axe: &str, label: &str) -> Vec<String> {
    browser.run(axe).await;
    let Value::Array(found) = browser.run_later(CHECK).await else { panic!("no list") };
    found.into_iter().map(|fault| format!("{label}: {fault}")).collect()
}
