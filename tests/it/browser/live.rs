//! Pages that stay open while something happens: they are refreshed, and what somebody selects or types stays.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;

use super::webdriver::Chromium;
use crate::receiving::{deliver, route};
use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;

/// Whether the page receives events.
const IS_LIVE: &str = "source !== null && source.readyState === EventSource.OPEN";
/// The text of the first status in the list of messages.
const STATUS: &str = "document.querySelector('tbody .badge')?.textContent";

#[tokio::test]
async fn hidden_tab_pauses_and_catches_up_when_it_is_shown() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    browser.sign_in(&app.key).await;
    for (path, status) in
        [("/ui/messages", STATUS), ("/ui/messages/ID", "document.querySelector('#summary .badge')?.textContent")]
    {
        app.clock.advance(TimeDelta::seconds(1));
        let sent = app.send(json!({})).await;
        browser.open(&path.replace("ID", &sent.id)).await;
        browser.wait_for("the page is live", IS_LIVE).await;
        browser.set_hidden(true).await;
        assert_eq!(browser.run("return source === null").await, json!(true), "{path}: the stream is open");
        app.run_until_idle().await;
        browser.set_hidden(false).await;
        browser.wait_for("the status is current", &format!("{status} === 'relayed'")).await;
    }
    // What happens in a hidden tab is not shown, however long it takes.
    browser.open("/ui/messages").await;
    browser.wait_for("the page is live", IS_LIVE).await;
    browser.set_hidden(true).await;
    app.send(json!({})).await;
    browser.run("everySecond()").await;
    assert_eq!(browser.run("return document.querySelector('.new-rows').hidden").await, json!(true));
    browser.set_hidden(false).await;
    browser.wait_for("the new message is announced", "!document.querySelector('.new-rows').hidden").await;
}

#[tokio::test]
async fn row_is_updated_while_another_one_is_selected() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    let changing = app.send(json!({"to": "ann@example.test"})).await;
    app.clock.advance(TimeDelta::seconds(1));
    let at = app.clock.text_in(TimeDelta::hours(1));
    let selected = app.send(json!({"to": "bo@example.test", "scheduled_at": at})).await;
    browser.sign_in(&app.key).await;
    // The list of messages replaces single rows, and the overview a whole table.
    for (path, row) in [("/ui/messages", "tr[data-id='ID']"), ("/ui", "#ID")] {
        let row = |id: &str| row.replace("ID", id);
        browser.open(path).await;
        browser.wait_for("the page is live", IS_LIVE).await;
        browser.run(&format!("document.querySelector(\"{}\").classList.add('is-selected')", row(&selected.id))).await;
        browser.run(&format!("document.querySelector(\"{} a.row-link\").focus()", row(&selected.id))).await;
        if path == "/ui/messages" {
            app.run_until_idle().await;
        } else {
            app.send(json!({"to": "cy@example.test"})).await;
            browser
                .wait_for(
                    "the new message is in the table",
                    "document.querySelectorAll('#live-newest tbody tr').length === 3",
                )
                .await;
        }
        let status = format!("document.querySelector(\"{} .badge\").textContent === 'relayed'", row(&changing.id));
        browser.wait_for("the row is updated", &status).await;
        let kept =
            format!("return document.querySelector(\"{}\").matches('.is-selected:focus-within')", row(&selected.id));
        assert_eq!(browser.run(&kept).await, json!(true), "{path}");
    }
}

#[tokio::test]
async fn typed_input_and_open_form_survive_a_refresh() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    app.send(json!({})).await;
    browser.sign_in(&app.key).await;
    browser.open("/ui/lanes").await;
    browser.wait_for("the page is live", IS_LIVE).await;
    browser.run("document.querySelector('[id$=-pause] > summary').click()").await;
    browser.type_into("[id$=-pause] input[name=reason]", "The postmaster").await;
    app.send(json!({})).await;
    // While somebody types, nothing around the form moves.
    browser.run("everySecond()").await;
    assert_eq!(browser.run("return document.activeElement.name").await, json!("reason"));
    browser.run("document.activeElement.blur()").await;
    let waiting = "document.querySelector('.lane-waiting').textContent.trim().startsWith('2')";
    browser.wait_for("the lane is refreshed", waiting).await;
    let form = "const form = document.querySelector('[id$=-pause]');
        return [form.open, form.querySelector('input[name=reason]').value]";
    assert_eq!(browser.run(form).await, json!([true, "The postmaster"]));
    // A form that was closed keeps its input, too.
    browser.run("document.querySelector('[id$=-pause]').open = false").await;
    app.send(json!({})).await;
    browser.wait_for("the lane is refreshed again", &waiting.replace('2', "3")).await;
    assert_eq!(browser.run(form).await, json!([false, "The postmaster"]));
    assert_eq!(browser.complaints().await, Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn list_is_refreshed_around_an_address_with_an_apostrophe() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    let add = async |address: &str| {
        assert_eq!(app.post("/v1/suppressions", &json!({"address": address})).await.status, 200);
    };
    add("o'hara@example.test").await;
    browser.sign_in(&app.key).await;
    browser.open("/ui/suppressions").await;
    browser.wait_for("the page is live", IS_LIVE).await;
    browser.run("document.querySelector('tbody details.confirm > summary').click()").await;
    add("ann@example.test").await;
    // The list is refreshed at most every ten seconds.
    browser.run("wanted.add('results'); refreshedAt.set('results', 1); everySecond()").await;
    browser.wait_for("the new row is in the table", "document.querySelectorAll('tbody tr').length === 2").await;
    let open = "const open = document.querySelectorAll('tbody details[open]');
        return [open.length, open[0]?.querySelector('input[name=address]').value]";
    assert_eq!(browser.run(open).await, json!([1, "o'hara@example.test"]));
    assert_eq!(browser.complaints().await, Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn received_message_appears_in_an_open_list() {
    let app = TestApp::builder().with_inbound().start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    route(&app, "*@reply.acme.test", "store").await;
    browser.sign_in(&app.key).await;
    browser.open("/ui/received").await;
    browser.wait_for("the page is live", IS_LIVE).await;
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], "Subject: Hello\r\n\r\nHi\r\n").await;
    let subject = "document.querySelector('#results .row-link')?.textContent";
    browser.wait_for("the message is in the list", &format!("{subject} === 'Hello'")).await;
}

#[tokio::test]
async fn open_page_survives_a_restart_of_the_service() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let base = service.address.clone().expect("an address");
    let Some(browser) = Chromium::start(&base).await else { return };
    let key = key(&database.url).await;
    browser.sign_in(&key).await;
    browser.open("/ui/messages").await;
    browser.wait_for("the page is live", IS_LIVE).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), service.terminate()).await;
    assert!(ended.expect("an open page delays the end").success());
    browser.wait_for("the page says so", "!document.getElementById('connection-lost').hidden").await;
    let mut again = serve(&database.url, smtp.address(), &[]);
    again.env("POSTRIDER_LISTEN", base.trim_start_matches("http://"));
    let service = Service::start(again).await;
    // Sent before the page is connected again, or after: it is announced.
    assert_eq!(Api::new(base, key).post("/v1/messages", &message(json!({}))).await.status, 202);
    browser.wait_for("the page is live again", IS_LIVE).await;
    browser.wait_for("the note is gone", "document.getElementById('connection-lost').hidden").await;
    browser.wait_for("the message is announced", "!document.querySelector('.new-rows').hidden").await;
    drop(browser);
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn unsaved_edits_of_a_template_are_not_lost_silently() {
    let app = TestApp::start().await;
    let Some(browser) = Chromium::start(&app.base).await else { return };
    let template = app.post("/v1/templates", &json!({"name": "Invoice", "subject": "S", "text": "saved"})).await.body;
    let path = format!("/ui/templates/{}", template["id"].as_str().unwrap());
    browser.sign_in(&app.key).await;
    browser.open(&path).await;
    let leaves = "const event = new Event('beforeunload', { cancelable: true }); return window.dispatchEvent(event)";
    assert_eq!(browser.run(leaves).await, json!(true), "nothing was typed");
    browser.type_into("textarea[name=text]", "typed").await;
    assert_eq!(browser.run(leaves).await, json!(false), "the browser asks");
    // Publishing saves the edits.
    browser.run("document.querySelector('button[formaction$=publish]').click()").await;
    browser
        .wait_for("it is published", "document.querySelector('.note-good')?.textContent.includes('published')")
        .await;
    let stored = app.get(&path.replace("/ui", "/v1")).await.body;
    assert!(stored["text"].as_str().unwrap().contains("typed"), "{stored}");
    assert_eq!(stored["version"], 1);
}
