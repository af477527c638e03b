//! `postrider doctor` stores, reads and deletes an object, and metrics count requests.

use reqwest::Method;

use super::{MIB, attaching, start};
use crate::support::app::TestApp;
use crate::support::process::{on, run};
use crate::support::s3::{Mode, S3Server, variables};
use crate::support::uploads::file;

/// Returns the line of `doctor` about attachments.
async fn doctor(app: &TestApp, endpoint: &str, changed: Option<(&str, &str)>) -> String {
    let mut command = on(&app.database.url, &["doctor"]);
    command.envs(variables(endpoint)).envs(changed).env("POSTRIDER_ATTACHMENTS__TIMEOUT", "5s");
    let output = String::from_utf8(run(command).await.stdout).unwrap();
    let line = output.lines().find(|line| line[6..].starts_with("attachments"));
    line.unwrap_or_else(|| panic!("{output}")).to_owned()
}

#[tokio::test]
async fn doctor_checks_the_bucket() {
    let (s3, app) = start().await;
    let fine = doctor(&app, &s3.url(), None).await;
    assert_eq!(fine, "ok    attachments: bucket files stores, returns and deletes objects");
    assert_eq!((s3.count(&Method::PUT), s3.count(&Method::DELETE), s3.keys().len()), (1, 1, 0));
    let other = doctor(&app, &s3.url(), Some(("POSTRIDER_ATTACHMENTS__BUCKET", "other"))).await;
    assert!(other.starts_with("BAD   attachments: bucket other: cannot store an object: "), "{other}");
    assert!(other.contains("NoSuchBucket"), "{other}");
    let id = Some(("POSTRIDER_ATTACHMENTS__ACCESS_KEY_ID", "unknown"));
    let refused = doctor(&app, &s3.url(), id).await;
    assert!(refused.contains("SignatureDoesNotMatch"), "{refused}");
    assert!(!refused.contains("a secret of the tests"), "{refused}");
    s3.set(Mode::Down);
    assert!(doctor(&app, &s3.url(), None).await.starts_with("BAD   attachments: "));
}

#[tokio::test]
async fn doctor_says_nothing_without_a_bucket() {
    let app = TestApp::start().await;
    let output = String::from_utf8(run(on(&app.database.url, &["doctor"])).await.stdout).unwrap();
    assert!(output.lines().all(|line| !line[6..].starts_with("attachments")), "{output}");
}

#[tokio::test]
async fn store_that_cannot_be_reached_is_bad() {
    let (s3, app) = start().await;
    let url = s3.url();
    drop(s3);
    let line = doctor(&app, &url, None).await;
    assert!(line.starts_with("BAD   attachments: bucket files: cannot store an object: "), "{line}");
}

#[tokio::test]
async fn metrics_count_requests() {
    let s3 = S3Server::start().await;
    let app = super::builder(&s3).config(|config| config.metrics.allow = vec!["127.0.0.0/8".into()]).start().await;
    app.send(attaching(&file(1, MIB))).await;
    let page = app.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for series in [
        "postrider_object_requests_total{operation=\"put\",result=\"ok\"} ",
        "postrider_object_requests_total{operation=\"get\",result=\"failed\"} ",
        "postrider_object_request_seconds_count{operation=\"put\"} ",
    ] {
        assert!(page.contains(series), "{series} in {page}");
    }
}
