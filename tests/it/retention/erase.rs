//! `POST /v1/privacy/erase` erases an address and the messages to it from every table.

use std::time::Duration;

use postrider::clock::Clock as _;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::tables_with;
use crate::receiving::relay::{SUPPORT, builder, relay_route, relays, url};
use crate::receiving::{deliver, route};
use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::clock::{hours, minutes, seconds};
use crate::support::hooks::{self, Hook};
use crate::support::receiver::{Receiver, Reply};
use crate::support::reports::{complaint, dsn, failed};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const PATH: &str = "/v1/privacy/erase";
const LIMIT: Duration = Duration::from_secs(30);
const ANN: &str = "ann@example.test";
/// Words in what is stored about Ann.
const SECRETS: [&str; 14] = [
    "nameword",
    "replyword",
    "subjectword",
    "textword",
    "htmlword",
    "headerword",
    "tagword",
    "metaword",
    "secretbytes",
    "quoteword",
    "variableword",
    "noteword",
    "receivedword",
    "sqlword",
];
/// A message from Ann.
const RECEIVED: &str =
    "From: Ann <ann@example.test>\r\nTo: help@reply.acme.test\r\nSubject: Hello\r\n\r\nreceivedword\r\n";

/// Starts an erasure, and returns its id.
async fn start(app: &TestApp, address: &str) -> String {
    let response = app.post(PATH, &json!({"address": address})).await;
    assert_eq!(response.status, 202, "{}", response.body);
    let id = response.body["id"].as_str().unwrap().to_owned();
    assert_eq!(response.headers["location"], format!("/v1/privacy/erasures/{id}"));
    assert!(!response.body.to_string().contains(ANN), "{}", response.body);
    id
}

async fn read(app: &TestApp, id: &str) -> Value {
    let response = app.get(&format!("/v1/privacy/erasures/{id}")).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

/// Waits until an erasure has ended, and returns it.
async fn ended(app: &TestApp, id: &str) -> Value {
    until("the erasure ends", LIMIT, async || {
        let erasure = read(app, id).await;
        if erasure["status"] == "running" { Err(erasure) } else { Ok(()) }
    })
    .await;
    read(app, id).await
}

/// Erases an address.
async fn erase(app: &TestApp, address: &str) -> Value {
    let erasure = ended(app, &start(app, address).await).await;
    assert_eq!((&erasure["status"], &erasure["waiting"]), (&json!("done"), &json!(0)), "{erasure}");
    // What is sent from now on does not belong to the erasure.
    app.clock.advance(seconds(1));
    erasure
}

/// Sends Ann a message with a secret in each of its parts.
async fn send_secrets(app: &TestApp) -> String {
    let body = json!({
        "from": {"email": "billing@acme.test", "name": "Acme"}, "to": [{"email": "Ann@Example.test", "name": "nameword"}],
        "reply_to": "replyword@acme.test", "subject": "subjectword", "text": "textword", "html": "<p>htmlword</p>",
        "headers": {"X-Note": "headerword"}, "tags": [{"name": "a", "value": "tagword"}], "metadata": {"b": "metaword"},
        "attachments": [{"filename": "a.bin", "content": "c2VjcmV0Ynl0ZXM="}],
    });
    let request = app.request(Method::POST, "/v1/messages").header("idempotency-key", "welcome-ann@example.test");
    let sent = ApiResponse::to(request.json(&body)).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    sent.body["id"].as_str().unwrap().to_owned()
}

/// Sends Ann a message of a bulk with variables of her own.
async fn send_bulk(app: &TestApp) {
    let fields = json!({"name": "News", "alias": "news", "subject": "News for {{ name }}", "html": "<p>Dear {{ name }}</p>",
                        "from": "news@acme.test", "variables": [{"key": "name", "type": "string"}]});
    assert_eq!(app.post("/v1/templates", &fields).await.status, 201);
    app.post("/v1/templates/news/publish", &json!({})).await;
    let recipients = json!([{"to": ANN, "variables": {"name": "variableword"}}, {"to": "bo@example.test", "variables": {"name": "Bo"}}]);
    let bulk = app.post("/v1/messages/bulk", &json!({"template": {"id": "news"}, "recipients": recipients})).await;
    assert_eq!(bulk.status, 202, "{}", bulk.body);
    until("the bulk consists of messages", LIMIT, async || {
        match super::number(app, "SELECT count(*) FROM bulk_recipients").await {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
}

/// Inserts a row into `sql_inbox`: a message with these recipients, which no process accepts, and which was refused if there are
/// `errors`. `age` is in seconds.
async fn enqueue(app: &TestApp, age: i64, recipients: Value, errors: Option<Value>) {
    let mut payload = message(recipients);
    payload["text"] = json!("sqlword");
    let created_at = app.clock.now() - chrono::TimeDelta::seconds(age);
    sqlx::query(
        "INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, claimed_until, refused_at, errors)
         VALUES ('00000000-0000-0000-0000-000000000000', uuid_floor($1), $2, octet_length($2::text), 'shop', $1, 'infinity',
                 CASE WHEN $3::jsonb IS NOT NULL THEN $1 END, $3)",
    )
    .bind(created_at)
    .bind(payload)
    .bind(errors)
    .execute(&mut app.database.connect().await)
    .await
    .unwrap();
}

/// Stores the address in every way that there is.
async fn fill(app: &TestApp) -> String {
    app.smtp.rcpt("Ann@example.test").replies(["451 4.2.0 <ann@example.test> is locked, quoteword"]);
    let id = send_secrets(app).await;
    app.run_until_idle().await;
    app.clock.advance(minutes(10));
    app.run_until_idle().await;
    assert_eq!(app.status(&id).await, "relayed");
    let path = app.smtp.messages().last().unwrap().from.clone();

    let batch = json!([message(json!({"to": ANN})), message(json!({"to": "bo@example.test", "cc": ANN}))]);
    let request = app.request(Method::POST, "/v1/messages/batch").header("idempotency-key", "batch:ann@example.test");
    assert_eq!(ApiResponse::to(request.json(&batch)).await.status, 202);
    send_bulk(app).await;
    app.run_until_idle().await;
    app.send(json!({"to": ANN, "scheduled_at": app.clock.text_in(hours(5))})).await;

    let bounce = dsn(None, Some(&path), &[failed(ANN)]);
    let request = app.request(Method::POST, "/v1/inbound").header(CONTENT_TYPE, "message/rfc822");
    assert_eq!(ApiResponse::to(request.body(bounce)).await.body["applied"], true);
    let entry = json!({"address": "ANN@example.test", "stream": "bulk", "note": "noteword"});
    assert_eq!(app.post("/v1/suppressions", &entry).await.status, 200);
    let action = json!({"action": "retry", "filter": {"to": ANN}});
    assert_eq!(app.post("/v1/messages/actions", &action).await.status, 202);
    until("the action ends", LIMIT, async || {
        match super::number(app, "SELECT count(*) FROM message_actions WHERE status = 'running'").await {
            0 => Ok(()),
            running => Err(running),
        }
    })
    .await;
    route(app, "*@reply.acme.test", "store").await;
    let replies = deliver(app, ANN, &["help@reply.acme.test"], RECEIVED).await;
    assert_eq!(replies[1], "250 2.0.0 Accepted\r\n");
    enqueue(app, 1, json!({"to": ANN}), Some(json!([{"message": "the template cannot be rendered"}]))).await;
    app.notify().await;
    id
}

#[tokio::test]
async fn erased_address_and_content_are_in_no_table() {
    let receiver = Receiver::start().await;
    receiver.always("/hook", Reply::Text(200, "noted for ann@example.test, quoteword"));
    let app = hooks::builder().with_inbound().start().await;
    Hook::add(&app, &receiver.url("/hook"), "").await;
    let id = fill(&app).await;
    let stored = tables_with(&app, ANN).await;
    let tables = [
        "audit_log",
        "idempotency_keys",
        "message_actions",
        "received_messages",
        "smtp_conversations",
        "sql_inbox",
        "suppressions",
    ];
    assert!(tables.iter().all(|table| stored.contains(&(*table).to_owned())), "{stored:?}");
    assert!(
        ["recipients_", "events_", "webhook_attempts_"]
            .iter()
            .all(|name| stored.iter().any(|table| table.starts_with(name))),
        "{stored:?}"
    );
    for word in SECRETS {
        assert_ne!(tables_with(&app, word).await, Vec::<String>::new(), "{word}");
    }

    let preview = app.post(PATH, &json!({"address": ANN, "dry_run": true})).await;
    let expected = json!({"messages": 5, "recipients": 5, "queued": 1, "bulk_recipients": 0, "suppressions": 2});
    assert_eq!((preview.status, &preview.body), (200, &expected));
    // The entries of one millisecond are in no order.
    app.clock.advance(seconds(1));
    let erasure = erase(&app, "Ann@EXAMPLE.test").await;
    let erased = &erasure["erased"];
    let count = |name: &str| erased[name].as_i64().unwrap();
    assert_eq!(
        ["messages", "recipients", "canceled", "suppressions", "idempotency_keys"].map(count),
        [5, 5, 1, 2, 2],
        "{erasure}"
    );
    assert_eq!(["received_messages", "sql_messages"].map(count), [1, 1], "{erasure}");
    assert!(count("webhook_attempts") > 5 && count("audit_entries") > 0 && count("other_texts") >= 1, "{erasure}");
    app.clock.advance(minutes(11));
    app.worker.clean_up().await.unwrap();
    for word in SECRETS.iter().chain(&[ANN]) {
        assert_eq!(tables_with(&app, word).await, Vec::<String>::new(), "{word}");
    }

    let pseudonym = &erasure["pseudonym"];
    let recipient = app.recipient(&id).await;
    assert_eq!((&recipient["address"], &recipient["status"]), (pseudonym, &json!("bounced")));
    assert_eq!(app.events(&id).await.last().unwrap(), "redacted");
    let entry = &app.get("/v1/audit?action=erase_address").await.body["data"][0];
    assert_eq!((&entry["object"], &entry["after"]["pseudonym"]), (&erasure["id"], pseudonym));
}

#[tokio::test]
async fn erased_address_stays_suppressed_until_removed() {
    let app = TestApp::start().await;
    app.post("/v1/suppressions", &json!([ANN, {"address": "bo@example.test", "note": "noteword"}])).await;
    let erasure = erase(&app, ANN).await;
    assert_eq!(erasure["erased"]["suppressions"], 1);
    for to in [ANN, "ANN@example.test", "\"ann\"@example.test"] {
        assert_eq!(app.send(json!({"to": to})).await.body["status"], "suppressed", "{to}");
    }
    let listed = app.get("/v1/suppressions?address=ann@example.test").await.body;
    assert_eq!(listed["data"][0]["address"], erasure["pseudonym"]);
    assert_eq!(app.get("/v1/suppressions/ann@example.test").await.body["data"].as_array().unwrap().len(), 1);
    let other = app.get("/v1/suppressions/bo@example.test").await.body;
    assert_eq!(
        (&other["data"][0]["address"], &other["data"][0]["note"]),
        (&json!("bo@example.test"), &json!("noteword"))
    );
    // An export can be imported again, also after the entry was removed.
    let exported = app.get("/v1/suppressions/export").await;
    assert_eq!(app.delete("/v1/suppressions/ann@example.test").await.status, 204);
    assert_eq!(app.send(json!({"to": ANN})).await.body["status"], "queued");
    let import = app.request(Method::POST, "/v1/suppressions/import").header(CONTENT_TYPE, "application/x-ndjson");
    let imported = ApiResponse::to(import.body(exported.bytes)).await;
    assert_eq!(imported.status, 200, "{}", imported.body);
    assert_eq!(app.send(json!({"to": ANN})).await.body["status"], "suppressed");
}

#[tokio::test]
async fn message_to_others_is_erased_once_it_has_ended() {
    let app = TestApp::start().await;
    app.smtp.rcpt("bo@example.test").replies(["451 4.3.2 later"]);
    let id = app.send(json!({"to": [ANN, "bo@example.test"], "text": "textword"})).await.id;
    app.run_until_idle().await;
    let erasure = start(&app, ANN).await;
    until("the message is waited for", LIMIT, async || {
        let erasure = read(&app, &erasure).await;
        if erasure["waiting"] == 1 { Ok(()) } else { Err(erasure) }
    })
    .await;
    assert_ne!(tables_with(&app, "textword").await, Vec::<String>::new());
    app.clock.advance(minutes(10));
    app.run_until_idle().await;
    assert_eq!(app.states(&id).await, ["relayed", "relayed"]);
    app.clock.advance(minutes(11));
    assert_eq!(ended(&app, &erasure).await["status"], "done");
    for word in ["textword", ANN] {
        assert_eq!(tables_with(&app, word).await, Vec::<String>::new(), "{word}");
    }
    assert_eq!(app.message(&id).await["recipients"][1]["address"], "bo@example.test");
}

#[tokio::test]
async fn bounce_during_the_erasure_does_not_keep_the_address() {
    let app = TestApp::builder().with_inbound().config(|config| config.return_path.verp = true).start().await;
    app.smtp.rcpt("bo@example.test").replies(["451 4.3.2 later"]);
    app.send(json!({"to": [ANN, "bo@example.test"]})).await;
    app.run_until_idle().await;
    let path = app.smtp.messages().last().unwrap().from.clone();
    let erasure = start(&app, ANN).await;
    until("the message is waited for", LIMIT, async || {
        let erasure = read(&app, &erasure).await;
        if erasure["waiting"] == 1 && erasure["phase"] == "messages" { Ok(()) } else { Err(erasure) }
    })
    .await;
    let reply = app.deliver_bounce(&path, &dsn(None, None, &[failed(ANN)])).await;
    assert!(reply.contains("1 recipients changed"), "{reply}");
    assert!(tables_with(&app, ANN).await.contains(&"suppressions".to_owned()));
    app.clock.advance(minutes(10));
    app.run_until_idle().await;
    app.clock.advance(minutes(11));
    let erasure = ended(&app, &erasure).await;
    assert_eq!((&erasure["status"], &erasure["erased"]["suppressions"]), (&json!("done"), &json!(1)), "{erasure}");
    assert_eq!(tables_with(&app, ANN).await, Vec::<String>::new());
    assert_eq!(app.send(json!({"to": ANN})).await.body["status"], "suppressed");
}

#[tokio::test]
async fn erasure_of_a_dead_process_continues() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION lease_new() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.leased_until := 'infinity'; RETURN NEW; END $$;
         CREATE TRIGGER lease_new BEFORE INSERT ON erasures FOR EACH ROW EXECUTE FUNCTION lease_new()",
    )
    .await;
    app.send(json!({"to": ANN})).await;
    app.run_until_idle().await;
    let id = start(&app, ANN).await;
    app.sql("UPDATE erasures SET phase = 'messages', counts = '{\"suppressions\": 3}', leased_until = '-infinity'")
        .await;
    let erasure = ended(&app, &id).await;
    assert_eq!((&erasure["status"], &erasure["erased"]["suppressions"]), (&json!("done"), &json!(3)), "{erasure}");
    assert_eq!(tables_with(&app, ANN).await, Vec::<String>::new());
    // A repeated erasure finds nothing.
    app.sql("DROP TRIGGER lease_new ON erasures").await;
    app.clock.advance(seconds(1));
    let again = erase(&app, ANN).await;
    assert_eq!((&again["erased"]["messages"], &again["pseudonym"]), (&json!(0), &erasure["pseudonym"]));
    let listed = app.get("/v1/privacy/erasures?limit=1").await.body;
    assert_eq!((&listed["data"][0]["id"], &listed["has_more"]), (&again["id"], &json!(true)));
}

#[tokio::test]
async fn recipient_of_a_bulk_is_removed_before_it_is_a_message() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION lease_new() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.leased_until := 'infinity'; RETURN NEW; END $$;
         CREATE TRIGGER lease_new BEFORE INSERT ON bulks FOR EACH ROW EXECUTE FUNCTION lease_new()",
    )
    .await;
    let body = json!({"from": "news@acme.test", "subject": "News", "text": "Hi", "recipients": [{"to": ANN}, {"to": "bo@example.test"}]});
    let bulk = app.post("/v1/messages/bulk", &body).await.body["id"].as_str().unwrap().to_owned();
    assert_eq!(erase(&app, ANN).await["erased"]["bulk_recipients"], 1);
    assert_eq!(tables_with(&app, ANN).await, Vec::<String>::new());
    app.sql("UPDATE bulks SET leased_until = '-infinity'").await;
    until("the bulk is a message", LIMIT, async || {
        let listed = app.get(&format!("/v1/messages?bulk={bulk}")).await.body["data"].as_array().unwrap().len();
        if listed == 1 { Ok(()) } else { Err(listed) }
    })
    .await;
    assert_eq!(app.get(&format!("/v1/bulks/{bulk}")).await.body["accepted"], 1);
}

#[tokio::test]
async fn received_messages_of_the_address_are_deleted() {
    let receiver = Receiver::start().await;
    receiver.always("/hook", Reply::Text(200, "quoteword"));
    let app = hooks::builder().with_inbound().start().await;
    Hook::add(&app, &receiver.url("/hook"), "").await;
    route(&app, "*@reply.acme.test", "store").await;
    let to = ["help@reply.acme.test"];
    let from_bo = "From: Bo <bo@example.test>\r\n";
    for (sender, fields) in [
        (ANN, from_bo.to_owned()),
        ("", "From: \"Ann\" <Ann@Example.test>\r\n".to_owned()),
        ("", format!("{from_bo}Reply-To: <ann@example.test>\r\n")),
        ("", format!("{from_bo}Cc: Cy <cy@example.test>,\r\n \"ann\"@example.test\r\n")),
        ("", format!("{from_bo}To: {}ann@example.test\r\n", "somebody.else@example.test,\r\n ".repeat(400))),
        ("", "From: Jo <jo-ann@example.test>\r\nCc: ann@example.test.example\r\nSubject: keptword\r\n".to_owned()),
    ] {
        let replies = deliver(&app, sender, &to, &format!("{fields}\r\nHi\r\n")).await;
        assert_eq!(replies[1], "250 2.0.0 Accepted\r\n", "{fields}");
    }
    app.notify().await;
    assert_ne!(tables_with(&app, "quoteword").await, Vec::<String>::new());
    assert_eq!(erase(&app, ANN).await["erased"]["received_messages"], 5);
    let left = app.get("/v1/received").await.body["data"].clone();
    assert_eq!((left.as_array().unwrap().len(), &left[0]["subject"]), (1, &json!("keptword")));
    let events = app.get("/v1/events?type=message.received").await.body["data"].clone();
    assert_eq!(events.as_array().unwrap().len(), 6);
    let is_erased = |event: &&Value| {
        let received = &event["data"]["received"];
        received["id"].is_string() && received["from"].is_null() && received["subject"].is_null()
    };
    assert_eq!(events.as_array().unwrap().iter().filter(is_erased).count(), 5, "{events}");
    let answers = super::number(&app, "SELECT count(*) FROM webhook_attempts WHERE answer = 'quoteword'").await;
    assert_eq!(answers, 1, "the response about the message that is left");
}

#[tokio::test]
async fn message_that_relays_one_of_the_address_is_erased() {
    let (app, inside) = (builder().start().await, SmtpServer::start().await);
    relay_route(&app, SUPPORT, &url(&inside)).await;
    assert_eq!(deliver(&app, ANN, &[SUPPORT], RECEIVED).await[1], "250 2.0.0 Accepted\r\n");
    let message = relays(&app, "message_id").await[0]["message_id"].as_str().unwrap().to_owned();
    app.run_until_idle().await;
    let erasure = erase(&app, ANN).await;
    assert_eq!((&erasure["erased"]["received_messages"], &erasure["erased"]["messages"]), (&json!(1), &json!(1)));
    app.clock.advance(minutes(11));
    app.worker.clean_up().await.unwrap();
    for word in [ANN, "receivedword"] {
        assert_eq!(tables_with(&app, word).await, Vec::<String>::new(), "{word}");
    }
    assert_eq!(app.status(&message).await, "relayed");
}

#[tokio::test]
async fn message_that_waits_to_be_relayed_is_erased_at_its_end() {
    let (app, inside) = (builder().start().await, SmtpServer::start().await);
    relay_route(&app, SUPPORT, &url(&inside)).await;
    inside.rcpt(SUPPORT).replies(["451 4.3.2 later"]);
    // Only `From` names Ann.
    assert_eq!(deliver(&app, "list@example.test", &[SUPPORT], RECEIVED).await[1], "250 2.0.0 Accepted\r\n");
    let message = relays(&app, "message_id").await[0]["message_id"].as_str().unwrap().to_owned();
    app.run_until_idle().await;
    assert_eq!(app.status(&message).await, "deferred");
    app.clock.advance(seconds(1));
    let erasure = start(&app, ANN).await;
    until("the message is waited for", LIMIT, async || {
        let erasure = read(&app, &erasure).await;
        if erasure["waiting"] == 1 && erasure["phase"] == "messages" { Ok(()) } else { Err(erasure) }
    })
    .await;
    app.clock.advance(minutes(10));
    app.run_until_idle().await;
    assert_eq!((app.status(&message).await.as_str(), inside.messages().len()), ("relayed", 1));
    app.clock.advance(minutes(11));
    let erasure = ended(&app, &erasure).await;
    assert_eq!((&erasure["erased"]["received_messages"], &erasure["erased"]["messages"]), (&json!(1), &json!(1)));
    app.clock.advance(minutes(11));
    app.worker.clean_up().await.unwrap();
    for word in [ANN, "receivedword"] {
        assert_eq!(tables_with(&app, word).await, Vec::<String>::new(), "{word}");
    }
}

#[tokio::test]
async fn message_from_sql_no_longer_goes_to_the_address() {
    let app = TestApp::start().await;
    enqueue(&app, 5, json!({"to": "Ann <ann@example.test>"}), None).await;
    enqueue(&app, 4, json!({"to": {"email": "Ann@Example.test", "name": "Ann"}, "bcc": ["bo@example.test"]}), None)
        .await;
    enqueue(&app, 3, json!({"to": [ANN, "bo@example.test"]}), Some(json!([]))).await;
    enqueue(&app, 2, json!({"to": "joann@example.test"}), Some(json!([]))).await;
    // Sent after the erasure.
    enqueue(&app, -60, json!({"to": "ANN@example.test"}), Some(json!([]))).await;
    assert_eq!(erase(&app, ANN).await["erased"]["sql_messages"], 3);
    assert_eq!(super::number(&app, "SELECT count(*) FROM sql_inbox WHERE refused_at IS NOT NULL").await, 2);
    let list = "/v1/messages?to=bo@example.test";
    until("the message is accepted", LIMIT, async || {
        let listed = app.get(list).await.body["data"].as_array().unwrap().len();
        if listed == 1 { Ok(()) } else { Err(listed) }
    })
    .await;
    app.run_until_idle().await;
    let sent: Vec<_> = app.smtp.messages().iter().map(|message| message.to.clone()).collect();
    assert_eq!(sent, [["bo@example.test"]]);
}

#[tokio::test]
async fn reason_of_a_rejected_message_is_erased() {
    let app = TestApp::start().await;
    enqueue(&app, 10, json!({"to": ANN}), None).await;
    // As if the validation had let it through.
    app.sql("UPDATE sql_inbox SET payload = payload - 'from', claimed_until = '-infinity'").await;
    let texts = async || {
        let events = app.get("/v1/events?type=message.rejected").await.body["data"].clone();
        events.as_array().unwrap().iter().map(|event| event["data"]["response"]["text"].clone()).collect::<Vec<_>>()
    };
    until("the message is rejected", LIMIT, async || match texts().await.len() {
        1 => Ok(()),
        rejected => Err(rejected),
    })
    .await;
    assert_ne!(texts().await, [json!("[redacted]")]);
    assert_eq!(erase(&app, ANN).await["erased"]["sql_messages"], 1);
    assert_eq!(texts().await, [json!("[redacted]")]);
}

#[tokio::test]
async fn later_reports_do_not_bring_the_address_back() {
    let app = TestApp::builder().with_inbound().start().await;
    let id = app.send(json!({"to": ANN})).await.id;
    app.run_until_idle().await;
    let path = app.smtp.messages().last().unwrap().from.clone();
    let erasure = erase(&app, ANN).await;
    for mime in [dsn(None, Some(&path), &[failed(ANN)]), complaint(&path)] {
        let request = app.request(Method::POST, "/v1/inbound").header(CONTENT_TYPE, "message/rfc822");
        let report = ApiResponse::to(request.body(mime)).await;
        assert_eq!((report.status, &report.body["applied"]), (200, &json!(true)), "{}", report.body);
    }
    assert_eq!(app.events(&id).await[3..], ["bounced", "complained"]);
    assert_eq!(tables_with(&app, ANN).await, Vec::<String>::new());
    let entry = app.get("/v1/suppressions").await.body["data"][0].clone();
    assert_eq!(entry["address"], erasure["pseudonym"]);
    assert_eq!(app.send(json!({"to": ANN})).await.body["status"], "suppressed");
}

#[tokio::test]
async fn unsubscribing_after_the_erasure_stores_no_address() {
    let builder = TestApp::builder()
        .with_inbound()
        .config(|config| config.public_url = Some("https://mail.acme.test".parse().unwrap()));
    let app = builder.start().await;
    app.patch("/v1/streams/bulk", &json!({"unsubscribe": true})).await;
    app.send(json!({"to": ANN, "stream": "bulk"})).await;
    app.run_until_idle().await;
    let raw = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap().replace("\r\n ", " ");
    let link = raw.split("https://mail.acme.test").nth(1).unwrap().split('>').next().unwrap().to_owned();
    let erasure = erase(&app, ANN).await;
    let click = app.anonymous(Method::POST, &link).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    assert!(click.body("List-Unsubscribe=One-Click").send().await.unwrap().status().is_success(), "{link}");
    assert_eq!(tables_with(&app, ANN).await, Vec::<String>::new());
    let entry = app.get("/v1/suppressions").await.body["data"][0].clone();
    assert_eq!((&entry["address"], &entry["stream"]), (&erasure["pseudonym"], &json!("bulk")));
    assert_eq!(app.send(json!({"to": ANN, "stream": "bulk"})).await.body["status"], "suppressed");
}

#[tokio::test]
async fn erasure_leaves_other_addresses_and_tenants_alone() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let other = app.send(json!({"to": "joann@example.test"})).await.id;
    let tested = test.send(json!({"to": ANN})).await.id;
    app.post("/v1/suppressions", &json!(["joann@example.test"])).await;
    app.run_until_idle().await;
    erase(&app, ANN).await;
    assert_eq!(app.recipient(&other).await["address"], "joann@example.test");
    assert_eq!(test.recipient(&tested).await["address"], ANN);
    let entries = app.get("/v1/audit?action=add_suppressions").await.body;
    assert_eq!(entries["data"][0]["after"]["addresses"], json!(["joann@example.test"]));
}
