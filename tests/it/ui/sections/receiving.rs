//! *Received* and *Inbound routes*.

use postrider::domain::key::Scope;
use serde_json::json;

use super::admin;
use crate::receiving::relay::{self, SUPPORT, relays};
use crate::receiving::{deliver, received, route};
use crate::support::app::TestApp;
use crate::support::dns::DnsServer;
use crate::support::smtp::SmtpServer;
use crate::tenants::tenant;
use crate::ui::browser::Browser;

/// Starts the service with an SMTP server, and signs in with a key with all scopes.
async fn start() -> (TestApp, Browser) {
    let app = TestApp::builder().with_inbound().start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    (app, browser)
}

/// Returns the page of the newest received message.
async fn newest(app: &TestApp) -> String {
    format!("/ui/received/{}", received(app).await[0]["id"].as_str().unwrap())
}

/// Returns an answer to the message with this `Message-ID`.
fn answer(message_id: &str) -> String {
    format!(
        "From: Ann <ann@example.test>\r\nSubject: Re: Your invoice\r\nIn-Reply-To: {message_id}\r\n\
         Content-Type: multipart/mixed; boundary=m\r\n\r\n\
         --m\r\nContent-Type: text/plain\r\n\r\nYes, please.\r\n\r\nOn Mon, 30 Nov 2026, Acme wrote:\r\n> Shall we?\r\n\
         --m\r\nContent-Type: text/html\r\n\r\n<script>x</script><p>Yes</p><img src=\"cid:logo\">\r\n\
         --m\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n\r\nAAA=\r\n\
         --m\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=plan.pdf\r\n\
         Content-Transfer-Encoding: base64\r\n\r\nJVBERi0=\r\n--m--\r\n"
    )
}

/// Returns a short message with this sender and subject.
fn mime(from: &str, subject: &str) -> String {
    format!("From: {from}\r\nSubject: {subject}\r\n\r\nHi\r\n")
}

#[tokio::test]
async fn received_answer_is_read_and_deleted() {
    let (app, browser) = start().await;
    let sent = app.send(json!({})).await.id;
    app.run_until_idle().await;
    let message_id = app.message(&sent).await["message_id"].as_str().unwrap().to_owned();
    route(&app, "*@reply.acme.test", "webhook").await;
    assert!(!browser.page(&format!("/ui/messages/{sent}")).await.text.contains("/ui/received?answers="));
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], &answer(&message_id)).await;

    let list = browser.page("/ui/received").await;
    list.shows(&["Re: Your invoice", "ann@example.test", "x@reply.acme.test", "not checked", "+2 attached"]);
    let path = newest(&app).await;
    let page = browser.page(&path).await;
    page.shows(&["Re: Your invoice", "<code>inbound.authenticate</code> is off", "*@reply.acme.test"]);
    page.shows(&[&format!("<a href=\"/ui/messages/{sent}\">Your invoice</a>"), "Delete the message"]);
    page.shows(&["sandbox=\"allow-popups allow-popups-to-escape-sandbox\"", "Load remote images"]);
    browser.page(&format!("{path}?tab=text")).await.shows(&["Yes, please.", "&#62; Shall we?"]);
    let reply = browser.page(&format!("{path}?tab=reply")).await;
    reply.shows(&["Yes, please."]);
    assert!(!reply.text.contains("Shall we?"), "{}", reply.text);
    browser.page(&format!("{path}?tab=headers")).await.shows(&["In-Reply-To"]);
    browser.page(&format!("{path}?tab=attachments")).await.shows(&["Attachments (2)", "plan.pdf", "application/pdf"]);
    let file = browser.page(&format!("{path}/attachments/1")).await;
    assert_eq!((file.header("content-type"), file.text.as_str()), ("application/octet-stream", "%PDF-"));
    assert!(file.header("content-disposition").starts_with("attachment"), "{:?}", file.headers);
    let raw = browser.page(&format!("{path}/raw")).await;
    assert!(raw.header("content-disposition").starts_with("attachment") && raw.text.contains("plan.pdf"));
    let counted = browser.page(&format!("/ui/messages/{sent}")).await;
    counted.shows(&[&format!("<a href=\"/ui/received?answers={sent}\">1 received</a>")]);
    browser.page(&format!("/ui/received?answers={sent}")).await.shows(&["Re: Your invoice"]);

    let location = browser.submit(&format!("{path}/delete"), &[]).await;
    browser.page(&location).await.shows(&["Deleted.", "No message was received yet"]);
    assert_eq!(browser.get(&path).await.status, 404);
    assert_eq!(browser.post(&format!("{path}/delete"), &[]).await.status, 404);
    let audit = app.get("/v1/audit").await.body;
    let entry = audit["data"].as_array().unwrap().iter().find(|entry| entry["action"] == "delete_received");
    assert_eq!(entry.expect("an entry")["source"], "dashboard", "{audit}");
}

#[tokio::test]
async fn html_of_a_received_message_runs_and_loads_nothing() {
    let (app, browser) = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], &answer("<none@acme.test>")).await;
    let path = newest(&app).await;
    let html = browser.page(&format!("{path}/html")).await;
    let policy = html.header("content-security-policy");
    assert!(policy.starts_with("sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none';"), "{policy}");
    assert!(policy.contains("img-src data:;") && !policy.contains("script"), "{policy}");
    assert!(html.text.contains("<img src=\"data:image/png;base64,AAA=\">"), "{}", html.text);
    let with_images = browser.page(&format!("{path}/html?images=1")).await;
    let policy = with_images.header("content-security-policy");
    assert!(policy.contains("img-src data: https:;") && !policy.contains("script"), "{policy}");
    browser.page(&format!("{path}?images=1")).await.shows(&["Remote images are loaded", "/html?images=1\""]);
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime("ann@example.test", "No HTML")).await;
    let path = newest(&app).await;
    assert_eq!(browser.get(&format!("{path}/html")).await.status, 404);
    let page = browser.page(&path).await;
    assert!(!page.text.contains("<iframe") && page.text.contains(">Hi"), "{}", page.text);
}

#[tokio::test]
async fn verdicts_of_a_received_message_are_explained() {
    let dns = DnsServer::start().await;
    dns.txt("example.test", ["v=spf1 ip4:127.0.0.1 -all"]);
    for domain in ["example.test", "victim.test"] {
        dns.txt(&format!("_dmarc.{domain}"), ["v=DMARC1; p=reject"]);
    }
    let builder = TestApp::builder().with_inbound();
    let app = builder.config(|config| (config.inbound.authenticate, config.dns) = (true, Some(dns.address())));
    let app = app.start().await;
    route(&app, "*@reply.acme.test", "store").await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for (from, badge, texts) in [
        (
            "ann@example.test",
            "badge-good\">pass<",
            ["The domain in From is confirmed: example.test.", "The client may send for example.test."],
        ),
        (
            "ceo@victim.test",
            "badge-bad\">fail<",
            ["The address in From may be forged: nothing confirms victim.test.", "Its owner asks to reject such"],
        ),
    ] {
        deliver(&app, "ann@example.test", &["x@reply.acme.test"], &mime(from, "Hello")).await;
        let page = browser.page(&newest(&app).await).await;
        page.shows(&[badge, "The message has no signature."]);
        page.shows(&texts);
        browser.page("/ui/received").await.shows(&[badge, from]);
    }
}

#[tokio::test]
async fn filters_of_received_messages_stay_in_the_pages() {
    let (app, browser) = start().await;
    let route_id = route(&app, "a@reply.acme.test", "store").await["id"].as_str().unwrap().to_owned();
    route(&app, "b@reply.acme.test", "store").await;
    deliver(&app, "", &["b@reply.acme.test"], &mime("ann@example.test", "of the other route")).await;
    for n in 0..51 {
        deliver(&app, "", &["a@reply.acme.test"], &mime("ann@example.test", &format!("number {n}."))).await;
    }
    let first = browser.page(&format!("/ui/received?route={route_id}")).await;
    first.shows(&["number 50.", "data-live=\"events\"", &format!("value=\"{route_id}\" selected")]);
    assert!(!first.text.contains("number 0.") && !first.text.contains("of the other route"), "{}", first.text);
    let is_next = |(name, value): &(String, String)| name == "rel" && value == "next";
    let next = first.tags().into_iter().find(|tag| tag.attributes.iter().any(is_next)).expect("a next page");
    let path = next.attributes.iter().find(|(name, _)| name == "href").map(|(_, value)| value.clone()).unwrap();
    assert!(path.starts_with(&format!("/ui/received?route={route_id}&after=rcv_")), "{path}");
    let second = browser.page(&path).await;
    second.shows(&["number 0.", "First page"]);
    assert!(!second.text.contains("data-live") && !second.text.contains("of the other route"), "{}", second.text);
    browser.page("/ui/received?answers=nonsense").await.shows(&["role=\"alert\"", "value=\"nonsense\""]);
    let gone = "irt_00000000000070008000000000000000";
    let none = browser.page(&format!("/ui/received?route={gone}")).await;
    none.shows(&["No received message matches", &format!("value=\"{gone}\" selected")]);
}

#[tokio::test]
async fn empty_pages_say_what_to_do_first() {
    let (app, browser) = admin().await;
    for path in ["/ui/received", "/ui/inbound-routes"] {
        browser.page(path).await.shows(&["First set <code>inbound.listen</code>", "Nothing is received yet"]);
    }
    route(&app, "*@reply.acme.test", "store").await;
    browser
        .page("/ui/received")
        .await
        .shows(&["No message was received yet", "that <code>inbound.listen</code> is set"]);
}

#[tokio::test]
async fn inbound_route_is_created_edited_and_deleted() {
    let (app, browser) = start().await;
    let fields = [("match", " Reply+*@Reply.acme.test "), ("action", "store")];
    let location = browser.submit("/ui/inbound-routes", &fields).await;
    let path = location.strip_suffix("?done=created").expect("a note").to_owned();
    browser.page(&location).await.shows(&[
        "Created.",
        "reply+*@reply.acme.test",
        "<strong>store</strong>",
        "0 messages",
    ]);
    browser.page("/ui/inbound-routes").await.shows(&["reply+*@reply.acme.test"]);
    let again = browser.post("/ui/inbound-routes", &fields).await;
    assert_eq!(again.status, 422);
    again.shows(&["role=\"alert\"", "already exists", "value=\" Reply+*@Reply.acme.test \"", "selected>store<"]);

    let location = browser.submit(&format!("{path}/edit"), &[("action", "webhook")]).await;
    browser.page(&location).await.shows(&["Changed.", "<strong>webhook</strong>", "message.received"]);
    let refused = browser.post(&format!("{path}/edit"), &[("action", "later")]).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["role=\"alert\"", "selected>later<", "id=\"route-edit\" open", &format!("hx-get=\"{path}\"")]);

    deliver(&app, "ann@example.test", &["reply+42@reply.acme.test"], &mime("ann@example.test", "Hello")).await;
    browser.page(&path).await.shows(&["What it has received is kept: 1 message.", "the last one"]);
    let location = browser.submit(&format!("{path}/delete"), &[]).await;
    browser.page(&location).await.shows(&["Deleted.", "No inbound route"]);
    assert_eq!(browser.get(&path).await.status, 404);
    browser.page(&newest(&app).await).await.shows(&["Hello", "which was deleted"]);
    let audit = app.get("/v1/audit").await.body;
    for action in ["create_inbound_route", "update_inbound_route", "delete_inbound_route"] {
        let is_entry = |entry: &serde_json::Value| entry["action"] == action && entry["source"] == "dashboard";
        assert!(audit["data"].as_array().unwrap().iter().any(is_entry), "{action}: {audit}");
    }
}

#[tokio::test]
async fn relay_route_is_edited_without_showing_its_password() {
    let (app, inside) = (relay::builder().start().await, SmtpServer::start().await);
    inside.offers(["AUTH PLAIN", "8BITMIME"]);
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let shown = format!("smtp://acme@{}?tls=none", inside.address());
    let route = [("match", SUPPORT), ("action", "relay"), ("to", shown.as_str())];
    let refused = browser.post("/ui/inbound-routes", &route).await;
    assert_eq!(refused.status, 422);
    refused.shows(&["has a user but no password", "selected>relay<", &format!("value=\"{shown}\"")]);
    let with_password = [route.as_slice(), &[("password", "hunter2%2F")]].concat();
    let location = browser.submit("/ui/inbound-routes", &with_password).await;
    let page = browser.page(&location).await;
    page.shows(&["<strong>relay</strong>", &format!("<dd class=\"mono\">{shown}</dd>"), &format!("value=\"{shown}\"")]);
    assert!(!page.text.contains("hunter2"), "{}", page.text);
    let path = location.strip_suffix("?done=created").expect("a note").to_owned();
    let inside_url = shown.replace("acme@", "acme:hunter2@").replace("none", "never");
    for fields in
        [with_password[1..2].to_vec(), vec![("action", "relay"), ("to", inside_url.as_str())], route[1..].to_vec()]
    {
        let refused = browser.post(&format!("{path}/edit"), &fields).await;
        assert_eq!(refused.status, 422, "{fields:?}");
        assert!(!refused.text.contains("hunter2"), "{fields:?}: {}", refused.text);
    }

    assert_eq!(deliver(&app, "", &[SUPPORT], &mime("ann@example.test", "Hello")).await[1], "250 2.0.0 Accepted\r\n");
    let message = relays(&app, "message_id").await[0]["message_id"].as_str().unwrap().to_owned();
    app.run_until_idle().await;
    // The user and the password of RFC 4616 in base64.
    assert_eq!(inside.count("AUTH PLAIN AGFjbWUAaHVudGVyMiUyRg=="), 1, "{:?}", inside.lines());
    let page = browser.page(&newest(&app).await).await;
    page.shows(&["Passed on", SUPPORT, &format!("<a href=\"/ui/messages/{message}\">"), "badge-good\">relayed<"]);

    let location = browser.submit(&format!("{path}/edit"), &[("action", "store"), ("to", shown.as_str())]).await;
    let page = browser.page(&location).await;
    page.shows(&["<strong>store</strong>"]);
    assert!(!page.text.contains("<dt>Server</dt>"), "{}", page.text);
}

#[tokio::test]
async fn key_without_content_sees_who_sent_a_received_message() {
    let (app, _) = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    deliver(&app, "", &["x@reply.acme.test"], &mime("ann@example.test", "An older one")).await;
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], &answer("<none@acme.test>")).await;
    let path = newest(&app).await;
    let viewer = app.with_scopes(&[Scope::Metadata]).await;
    let browser = Browser::signed_in(&app.base, &viewer.key).await;
    browser.page("/ui/received").await.shows(&["Re: Your invoice", "An older one"]);
    for tab in ["preview", "text", "reply", "headers", "attachments"] {
        let page = browser.page(&format!("{path}?tab={tab}")).await;
        page.shows(&["Re: Your invoice", "ann@example.test", "Who sent it"]);
        for hidden in ["Yes, please", "In-Reply-To", "<iframe", "/raw\"", "/attachments/0\"", "Delete the message"] {
            assert!(!page.text.contains(hidden), "{tab}: {hidden}: {}", page.text);
        }
    }
    browser.page(&path).await.shows(&["without their content: that needs the scope `read`"]);
    browser.page(&format!("{path}?tab=attachments")).await.shows(&["plan.pdf"]);
    for part in ["html", "raw", "attachments/0"] {
        assert_eq!(browser.get(&format!("{path}/{part}")).await.status, 403, "{part}");
    }
    for id in ["rcv_1", "rcv_ffffffffffffffffffffffffffffffff", "nonsense"] {
        assert_eq!(browser.get(&format!("/ui/received/{id}")).await.status, 404, "{id}");
    }
    let reader = app.with_scopes(&[Scope::Read]).await;
    let browser = Browser::signed_in(&app.base, &reader.key).await;
    let page = browser.page(&path).await;
    assert!(page.text.contains("<iframe") && !page.text.contains("Delete the message"), "{}", page.text);
    assert!(!browser.page("/ui/inbound-routes").await.text.contains("Create the route"));
}

#[tokio::test]
async fn received_messages_of_others_are_not_found() {
    let (app, _) = start().await;
    let created = route(&app, "*@reply.acme.test", "store").await;
    deliver(&app, "", &["x@reply.acme.test"], &mime("ann@example.test", "for our eyes only")).await;
    let other = tenant(&app, "other", json!({})).await;
    let browser = Browser::signed_in(&app.base, &other.api.key).await;
    assert!(!browser.page("/ui/received").await.text.contains("our eyes"));
    let (path, route) = (newest(&app).await, created["id"].as_str().unwrap());
    for part in ["", "/html", "/raw", "/attachments/0"] {
        assert_eq!(browser.get(&format!("{path}{part}")).await.status, 404, "{part}");
    }
    assert_eq!(browser.get(&format!("/ui/inbound-routes/{route}")).await.status, 404);
}
