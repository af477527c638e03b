//! The link that `postrider dev` prints, with which a new user opens the dashboard without copying a key.

use super::browser::Browser;
use crate::support::dev::{Dev, directory};

#[tokio::test]
async fn printed_link_signs_in_once() {
    let dir = directory();
    let dev = Dev::start(dir.path()).await;
    let (base, admin_key) = (dev.facts["api"].as_str().unwrap(), dev.facts["admin_key"].as_str().unwrap());
    let link = dev.printed.split_whitespace().find(|word| word.contains("/ui/login/link")).expect("a link");
    let path = link.strip_prefix(base).expect("a link to this service");
    assert!(!path.contains(admin_key), "the link has the key");
    let mut browser = Browser::open(base);
    let page = browser.get(path).await;
    assert_eq!((page.status, page.location().as_str()), (303, "/ui"));
    browser.keep_cookie(&page);
    browser.page("/ui").await.shows(&["dev admin", "href=\"/ui/inbox\""]);
    let again = Browser::open(base).get(path).await;
    assert_eq!((again.status, again.header("set-cookie")), (401, ""));
    again.shows(&["has been used or has expired"]);
    assert!(dev.stop().await.success());
}
