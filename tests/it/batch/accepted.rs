//! A batch accepts what single requests accept, with the same responses, events and deliveries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::{PATH, count, ids, indexes, messages};
use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::hours;
use crate::support::dns::DnsServer;
use crate::support::until::until;

#[tokio::test]
async fn entries_have_the_fields_of_single_responses() {
    let app = TestApp::start().await;
    let fields = json!({"to": ["ann@example.test", "bo@example.test"]});
    let single = app.send(fields.clone()).await.body;
    let batch = app.post(PATH, &json!({"messages": [message(json!({})), message(fields)]})).await;
    assert_eq!((batch.status, batch.body.as_object().unwrap().len()), (202, 1), "{}", batch.body);
    let entry = batch.body["data"][1].as_object().unwrap();
    let mut names: Vec<&String> = single.as_object().unwrap().keys().collect();
    let index = "index".to_owned();
    names.push(&index);
    names.sort();
    assert_eq!(entry.keys().collect::<Vec<_>>(), names);
    assert_eq!(
        (&entry["index"], &entry["status"], &entry["created_at"]),
        (&json!(1), &json!("queued"), &single["created_at"])
    );
    let addresses: Vec<&Value> = entry["recipients"].as_array().unwrap().iter().map(|one| &one["address"]).collect();
    assert_eq!(addresses, ["ann@example.test", "bo@example.test"]);
}

#[tokio::test]
async fn every_message_is_delivered_with_its_own_content() {
    let app = TestApp::start().await;
    let bodies = [json!(messages(30)), json!({"messages": messages(30), "validation": "permissive"})];
    for body in bodies {
        let response = app.post(PATH, &body).await;
        assert_eq!(indexes(&response.body["data"]), (0..30).collect::<Vec<_>>());
        for (n, id) in ids(&response).iter().enumerate() {
            let message = app.message(id).await;
            assert_eq!((&message["subject"], &message["status"]), (&json!(n.to_string()), &json!("queued")));
            assert_eq!(app.events(id).await, ["accepted"]);
        }
        app.run_until_idle().await;
        let mut received: Vec<(String, String)> = app
            .smtp
            .messages()
            .into_iter()
            .map(|message| {
                let text = String::from_utf8(message.raw).unwrap();
                let subject = text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned();
                (subject, message.to.join(","))
            })
            .collect();
        received.sort();
        let mut expected: Vec<(String, String)> =
            (0..30).map(|n| (n.to_string(), format!("u{n}@example.test"))).collect();
        expected.sort();
        let times = received.len() / 30;
        expected = expected.into_iter().flat_map(|one| vec![one; times]).collect();
        assert_eq!(received, expected);
    }
    assert_eq!(count(&mut app.database.connect().await).await, 60);
}

#[tokio::test]
async fn everything_of_a_single_message_is_kept() {
    let app = TestApp::start().await;
    let at = app.clock.text_in(hours(2));
    let full = message(json!({
        "to": ["Bob <bob@example.test>"], "cc": "cy@example.test", "bcc": ["dan@example.test"], "reply_to": "desk@acme.test",
        "subject": "Grüße", "html": "<p>ä</p>", "headers": {"X-Order": "12"}, "stream": "bulk", "on_uncertain": "hold",
        "attachments": [{"filename": "a.txt", "content": "YWJj"}, {"filename": "b.png", "content": "aGk=", "content_id": "logo"}],
        "tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42"},
        "scheduled_at": at, "expires_at": app.clock.text_in(hours(9)),
    }));
    let response = app.post(PATH, &json!([message(json!({})), full])).await;
    let id = &ids(&response)[1];
    assert_eq!(response.body["data"][1]["status"], "scheduled");
    let batched = app.message(id).await;
    let alone = app.message(&app.send(full).await.id).await;
    for name in [
        "subject",
        "stream",
        "tags",
        "metadata",
        "scheduled_at",
        "expires_at",
        "on_uncertain",
        "reply_to",
        "size",
        "attachments",
    ] {
        assert_eq!(batched[name], alone[name], "{name}");
    }
    assert_eq!(app.events(id).await, ["scheduled"]);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 1, "only the other message is due");
    app.clock.advance(hours(2));
    app.run_until_idle().await;
    let received = app.smtp.messages();
    let files = received.iter().filter(|one| one.raw.windows(4).any(|part| part == b"aGk=")).count();
    assert_eq!((received.len(), files), (3, 2));
    assert_eq!(app.states(id).await, vec!["relayed"; 3]);
}

#[tokio::test]
async fn same_attachment_of_several_messages_is_stored_once() {
    let app = TestApp::start().await;
    let large = STANDARD.encode(vec![9; (1 << 20) + 5]);
    let file = |content: &str| json!({"filename": "a.bin", "content": content});
    let with_files = |n: u8| {
        let own = STANDARD.encode([n; 100]);
        message(json!({"attachments": [file("YWJj"), file(&large), file(&own), file("YWJj")]}))
    };
    let response = app.post(PATH, &(0..5).map(with_files).collect::<Value>()).await;
    assert_eq!(ids(&response).len(), 5, "{}", response.body);
    let sizes = sqlx::query_scalar::<_, i64>("SELECT size FROM blobs ORDER BY size");
    let sizes = sizes.fetch_all(&mut app.database.connect().await).await.unwrap();
    assert_eq!(sizes, [[3].as_slice(), &[100; 5], &[(1 << 20) + 5]].concat());
    app.run_until_idle().await;
    for (n, received) in app.smtp.messages().into_iter().enumerate() {
        let text: String = String::from_utf8(received.raw).unwrap().split("\r\n").collect();
        assert!(text.contains(&large) && text.matches("YWJj").count() >= 2, "{n}");
    }
}

#[tokio::test]
async fn suppressed_recipients_are_reported_and_not_sent_to() {
    let app = TestApp::start().await;
    app.post("/v1/suppressions", &json!({"address": "u1@example.test", "reason": "complaint"})).await;
    let response = app.post(PATH, &json!(messages(3))).await;
    let statuses: Vec<&Value> = response.body["data"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(statuses, ["queued", "suppressed", "queued"]);
    assert_eq!(app.events(&ids(&response)[1]).await, ["accepted", "suppressed"]);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2);
}

#[tokio::test]
async fn each_domain_of_a_batch_has_its_own_lane() {
    let dns = DnsServer::start().await;
    for n in 0..40 {
        dns.add_address(&format!("d{n}.test"), "127.0.0.1");
    }
    let app = TestApp::builder().direct(&dns).start().await;
    let to_domain = |n: usize| message(json!({"to": [format!("a@d{n}.test"), format!("b@d{}.test", (n + 1) % 40)]}));
    let response = app.post(PATH, &(0..40).map(to_domain).collect::<Value>()).await;
    assert_eq!(ids(&response).len(), 40);
    let lanes = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM lanes");
    assert_eq!(lanes.fetch_one(&mut app.database.connect().await).await.unwrap(), 40);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().iter().map(|message| message.to.len()).sum::<usize>(), 80);
}

#[tokio::test]
async fn warnings_are_those_of_each_message() {
    let app = TestApp::builder()
        .config(|config| config.secret_key = Some("a secret of the tests, and of nobody else".to_owned().into()))
        .start()
        .await;
    assert_eq!(app.post("/v1/domains", &json!({"name": "other.test"})).await.status, 201);
    app.sql("UPDATE streams SET unsubscribe = true WHERE name = 'bulk'").await;
    let two = json!({"to": ["ann@example.test", "bo@example.test"], "stream": "bulk"});
    let response = app.post(PATH, &json!([message(json!({})), message(two)])).await;
    let codes = |index: usize| {
        let warnings = response.body["data"][index]["warnings"].as_array().unwrap();
        warnings.iter().map(|warning| warning["code"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(codes(0), ["domain_not_registered"]);
    assert_eq!(codes(1), ["domain_not_registered", "unsubscribe_needs_one_recipient"]);
}

#[tokio::test]
async fn batch_is_handed_to_the_worker_of_its_process() {
    let app = TestApp::builder().with_all_roles().start().await;
    let relayed = async |id: &str| {
        until("the message is relayed", std::time::Duration::from_secs(20), async || {
            let status = app.status(id).await;
            if status == "relayed" { Ok(()) } else { Err(status) }
        })
        .await;
    };
    relayed(&app.send(json!({})).await.id).await;
    let mut connection = app.database.connect().await;
    // Direct handoff needs a lane without due rows.
    until("no lane is ready", std::time::Duration::from_secs(20), async || {
        let ready = "SELECT count(*) FROM lanes WHERE ready_at < 'infinity'";
        let count: i64 = sqlx::query_scalar(ready).fetch_one(&mut connection).await.unwrap();
        if count == 0 { Ok(()) } else { Err(count) }
    })
    .await;
    let gate = app.smtp.dot().stalls();
    let sent = ids(&app.post(PATH, &json!(messages(20))).await);
    gate.reached().await;
    let leased = "SELECT count(*) FROM messages m JOIN queue q ON q.message_id = m.id
                  WHERE q.lease IS NOT NULL AND q.xmin = m.xmin";
    let leased: i64 = sqlx::query_scalar(leased).fetch_one(&mut connection).await.unwrap();
    assert!(leased > 0, "the transaction that stored the batch leased it");
    gate.open();
    for id in &sent {
        relayed(id).await;
    }
}

#[tokio::test]
async fn admin_key_may_ignore_suppressions_in_a_batch() {
    let app = TestApp::start().await;
    let sender = app.with_scopes(&[Scope::Send]).await;
    app.post("/v1/suppressions", &json!({"address": "ann@example.test", "reason": "complaint"})).await;
    let body = json!([message(json!({"ignore_suppression": true}))]);
    assert_eq!(app.post(PATH, &body).await.body["data"][0]["status"], "queued");
    let refused = sender.post(PATH, &body).await;
    assert_eq!(
        (refused.problem(), refused.faults()),
        ((403, "forbidden"), vec![("/0/ignore_suppression", "forbidden")])
    );
}
