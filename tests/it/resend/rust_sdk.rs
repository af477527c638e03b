//! Resend's SDK for Rust works when only the URL is changed: its types, and its errors, are checked by the compiler and
//! by its deserializers.

use std::collections::HashMap;

use axum::Router;
use axum::routing::get as on_get;
use chrono::{DateTime, TimeDelta, Utc};
use postrider::clock::{Clock as _, SystemClock};
use resend_rs::events::{EmailEventType, Event, try_parse_event};
use resend_rs::idempotent::IdempotentTrait as _;
use resend_rs::list_opts::ListOptions;
use resend_rs::types::{
    AddSuppressionOptions, BatchAddSuppressionOptions, BatchRemoveSuppressionOptions, BatchValidation,
    ContentDisposition, CreateApiKeyOptions, CreateAttachment, CreateDomainOptions, CreateEmailBaseOptions,
    CreateTemplateOptions, CreateWebhookOptions, DomainChanges, DomainRecord, EmailEvent, EmailTemplate, ErrorKind,
    SuppressionOrigin, Tag, TemplateEvent, UpdateApiKeyOptions, UpdateEmailOptions, UpdateTemplateOptions,
    UpdateWebhookOptions, Variable, VariableType, WebhookEventStatus, WebhookStatus,
};
use resend_rs::{Config, Error, Resend};
use serde_json::json;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::dns::DnsServer;
use crate::support::domains::with_secret;
use crate::support::hooks;
use crate::support::receiver::Receiver;

/// Returns the SDK with the URL and the key of an API.
fn sdk(api: &Api) -> Resend {
    Resend::with_config(Config::builder(&*api.key).base_url(api.base.parse().unwrap()).build())
}

async fn start() -> (TestApp, Resend) {
    let app = super::start().await;
    let resend = sdk(&app);
    (app, resend)
}

fn email() -> CreateEmailBaseOptions {
    CreateEmailBaseOptions::new("Acme <billing@acme.test>", ["ann@example.test"], "Your invoice")
        .with_html("<p>Hello <b>Ann</b></p>")
}

/// Returns the kind and the message of an error of the API.
fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> (ErrorKind, String) {
    match result {
        Err(Error::Resend(error)) => (error.kind(), error.message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rust_sdk_sends_files_in_every_form() {
    let app = super::builder().config(|config| config.resend.fetch_allow = vec!["127.0.0.1".into()]).start().await;
    let resend = sdk(&app);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let files = Router::new().route("/terms.pdf", on_get(|| async { "terms" }));
    let server = tokio::spawn(async move { axum::serve(listener, files).await.unwrap() });
    let data: Vec<u8> = (0..=255).collect();
    let sent = email()
        .with_attachment(CreateAttachment::from_content(data.clone()).with_filename("list.bin"))
        .with_attachment(CreateAttachment::from_content(data.clone()).with_filename("logo.png").with_content_id("logo"))
        .with_attachment(CreateAttachment::from_path(&format!("http://{address}/terms.pdf")))
        .with_attachment(data.clone());
    let id = resend.emails.send(sent).await.unwrap().id;
    server.abort();

    let files = resend.emails.list_attachments(&id, ListOptions::default()).await.unwrap().data;
    let names: Vec<&str> = files.iter().map(|file| file.filename.as_deref().unwrap()).collect();
    assert_eq!(names, ["list.bin", "logo.png", "terms.pdf", "attachment"]);
    assert_eq!((files[0].size, files[2].size, files[2].content_type.as_str()), (256, 5, "application/pdf"));
    assert!(matches!(files[1].content_disposition, ContentDisposition::Inline));
    let one = resend.emails.get_attachment(&id, &files[0].id).await.unwrap();
    assert_eq!(reqwest::get(&one.download_url).await.unwrap().bytes().await.unwrap(), data);
}

#[tokio::test]
async fn rust_sdk_sends_reads_moves_and_cancels() {
    let (app, resend) = start().await;
    let headers: HashMap<String, String> = (0..20).map(|n| (format!("X-Entity-{n}"), n.to_string())).collect();
    let tagged = || {
        let message =
            email().with_cc("bo@example.test").with_reply("help@acme.test").with_tag(Tag::new("kind", "invoice"));
        // The SDK has a hash map of headers, whose order changes with each request.
        let message = headers.iter().fold(message, |message, (name, value)| message.with_header(name, value));
        message.with_idempotency_key("order-42")
    };
    let id = resend.emails.send(tagged()).await.unwrap().id;
    for _ in 0..5 {
        assert_eq!(resend.emails.send(tagged()).await.unwrap().id, id);
    }
    let other = email().with_idempotency_key("order-42");
    assert_eq!(kind(resend.emails.send(other).await).0, ErrorKind::InvalidIdempotentRequest);

    let shown = resend.emails.get(&id).await.unwrap();
    assert_eq!(
        (shown.to.as_slice(), shown.cc.as_slice()),
        (&["ann@example.test".into()][..], &["bo@example.test".into()][..])
    );
    assert_eq!((shown.last_event, shown.text.as_deref().map(str::trim)), (EmailEvent::Queued, Some("Hello Ann")));
    let listed = resend.emails.list(ListOptions::default().with_limit(1)).await.unwrap();
    assert_eq!((listed.data[0].id.clone(), listed.has_more), (id.clone(), false));
    app.run_until_idle().await;
    assert_eq!(resend.emails.get(&id).await.unwrap().last_event, EmailEvent::Sent);

    app.clock.advance(TimeDelta::seconds(1));
    let scheduled = resend.emails.send(email().with_scheduled_at("in 1 hour")).await.unwrap().id;
    let changes = UpdateEmailOptions::new().with_scheduled_at("in 2 hours");
    assert_eq!(resend.emails.update(&scheduled, changes).await.unwrap().id, scheduled);
    let at: DateTime<Utc> = resend.emails.get(&scheduled).await.unwrap().scheduled_at.unwrap().parse().unwrap();
    assert_eq!(at - app.clock.now(), TimeDelta::hours(2));
    assert_eq!(resend.emails.cancel(&scheduled).await.unwrap().id, scheduled);
    assert_eq!(resend.emails.get(&scheduled).await.unwrap().last_event, EmailEvent::Canceled);
    let older = resend.emails.list(ListOptions::default().list_after(&scheduled)).await.unwrap();
    assert_eq!(older.data.iter().map(|email| email.id.clone()).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn rust_sdk_knows_every_state_that_it_gets() {
    let (app, resend) = start().await;
    app.smtp.rcpt("bounced@example.test").replies(["550 5.1.1 no such user"]);
    app.smtp.rcpt("later@example.test").replies(["451 4.3.0 later"]);
    app.post("/v1/suppressions", &json!("gone@example.test")).await;
    let mut ids = Vec::new();
    for to in ["bounced@example.test", "later@example.test", "gone@example.test"] {
        let message = CreateEmailBaseOptions::new("a@acme.test", [to], "Hi").with_text("Hello");
        ids.push(resend.emails.send(message).await.unwrap().id);
    }
    app.run_until_idle().await;
    let expected = [EmailEvent::Bounced, EmailEvent::DeliveryDelayed, EmailEvent::Failed];
    for (id, expected) in ids.iter().zip(expected) {
        assert_eq!(resend.emails.get(id).await.unwrap().last_event, expected, "the SDK has no `suppressed`");
    }
    assert_eq!(resend.emails.list(ListOptions::default()).await.unwrap().data.len(), 3);
}

#[tokio::test]
async fn rust_sdk_sends_batches() {
    let (_app, resend) = start().await;
    let file = CreateAttachment::from_content(b"hi".to_vec()).with_filename("a.txt");
    let batch = || vec![email().with_attachment(file.clone()), email().with_scheduled_at("in 1 hour")];
    let sent = resend.batch.send(batch().with_idempotency_key("batch-1")).await.unwrap();
    let again = resend.batch.send(batch().with_idempotency_key("batch-1")).await.unwrap();
    let ids =
        |sent: &[resend_rs::types::CreateEmailResponse]| sent.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    assert_eq!((sent.len(), ids(&again)), (2, ids(&sent)));
    let files = resend.emails.list_attachments(&sent[0].id, ListOptions::default()).await.unwrap();
    assert_eq!(files.data.len(), 1, "Resend drops the files of batches");
    let wrong = CreateEmailBaseOptions::new("a@acme.test", ["nobody"], "Hi").with_text("Hello");
    let permissive =
        resend.batch.send_with_batch_validation(vec![email(), wrong], BatchValidation::Permissive).await.unwrap();
    assert_eq!((permissive.data.len(), permissive.errors[0].index), (1, 1));
    assert!(permissive.errors[0].message.contains("`to[0]`"), "{:?}", permissive.errors);
}

#[tokio::test]
async fn rust_sdk_raises_its_own_errors() {
    let (app, resend) = start().await;
    let invalid = CreateEmailBaseOptions::new("a@acme.test", ["ann@example.test"], "").with_text("Hello");
    let (missing, message) = kind(resend.emails.send(invalid).await);
    assert_eq!((missing, message.as_str()), (ErrorKind::MissingRequiredField, "Missing `subject` field."));
    let nobody = CreateEmailBaseOptions::new("a@acme.test", ["nobody"], "Hi").with_text("Hello");
    assert_eq!(kind(resend.emails.send(nobody).await).0, ErrorKind::ValidationError);
    let unknown = "019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b";
    assert_eq!(kind(resend.emails.get(unknown).await).0, ErrorKind::NotFound);
    assert_eq!(kind(resend.webhooks.get(unknown).await).0, ErrorKind::NotFound);
    let no_file = email().with_attachment(CreateAttachment::from_path("ftp://files.test/a"));
    assert_eq!(kind(resend.emails.send(no_file).await).0, ErrorKind::InvalidAttachment);
    let long = email().with_idempotency_key(&"k".repeat(257));
    assert_eq!(kind(resend.emails.send(long).await).0, ErrorKind::InvalidIdempotencyKey);
    let sender = sdk(&app.with_scopes(&[postrider::domain::key::Scope::Send]).await);
    assert_eq!(kind(sender.emails.get(unknown).await).0, ErrorKind::RestrictedApiKey);
    let stranger = sdk(&app.api().with_key("re_wrong"));
    let Err(Error::Resend(error)) = stranger.emails.send(email()).await else { panic!("no error") };
    assert_eq!((error.status_code, error.name.as_str()), (403, "invalid_api_key"));

    let limits = json!({"name": "slow", "rate": {"requests_per_second": 1, "burst": 1}});
    let limited = app.post("/v1/keys", &limits).await.body["secret"].as_str().unwrap().to_owned();
    let limited = sdk(&app.api().with_key(&limited));
    limited.emails.send(email()).await.unwrap();
    let Err(Error::RateLimit { ratelimit_limit, ratelimit_reset, .. }) = limited.emails.send(email()).await else {
        panic!("no error")
    };
    assert!(ratelimit_limit == Some(1) && ratelimit_reset.is_some(), "{ratelimit_limit:?} {ratelimit_reset:?}");
}

#[tokio::test]
async fn rust_sdk_manages_templates() {
    let (_app, resend) = start().await;
    let variable = || Variable::new("NAME", VariableType::String).with_fallback("you");
    let new = CreateTemplateOptions::new("Welcome", "<p>Hello {{{NAME}}}</p>").with_alias("welcome");
    let new = new.with_subject("Welcome {{{NAME}}}").with_from("Acme <a@acme.test>").with_variable(variable());
    let id = resend.templates.create(new).await.unwrap().id;
    let update = UpdateTemplateOptions::new("Welcome mail", "<p>Dear {{{NAME}}}</p>").with_variable(variable());
    assert_eq!(resend.templates.update("welcome", update).await.unwrap().id, id);
    let draft = resend.templates.get(&id).await.unwrap();
    assert_eq!(
        (draft.status, draft.name.as_str(), draft.variables),
        (TemplateEvent::Draft, "Welcome mail", vec![variable()])
    );
    resend.templates.publish(&id).await.unwrap();
    assert_eq!(resend.templates.get("welcome").await.unwrap().status, TemplateEvent::Published);
    // The SDK always sends `from` and `subject`, which are empty here.
    let rendered = CreateEmailBaseOptions::new("", ["ann@example.test"], "")
        .with_template(EmailTemplate::new(&id).with_variable("NAME", json!("Ann")));
    let sent = resend.emails.send(rendered).await.unwrap().id;
    let shown = resend.emails.get(&sent).await.unwrap();
    assert_eq!((shown.subject.as_str(), shown.from.as_str()), ("Welcome Ann", "Acme <a@acme.test>"));
    let copy = resend.templates.duplicate(&id).await.unwrap().id;
    assert_eq!(resend.templates.list(ListOptions::default()).await.unwrap().data.len(), 2);
    assert!(resend.templates.delete(&copy).await.unwrap().deleted);
}

#[tokio::test]
async fn rust_sdk_manages_domains_and_keys() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let resend = sdk(&app);
    let domain = resend.domains.create(CreateDomainOptions::new("acme.test")).await.unwrap();
    let records = domain.records.unwrap();
    assert!(records.iter().any(|record| matches!(record, DomainRecord::DomainDkimRecord(_))), "{records:?}");
    assert_eq!(resend.domains.get(&domain.id).await.unwrap().name, "acme.test");
    resend.domains.update(&domain.id, DomainChanges::new().with_open_tracking(false)).await.unwrap();
    let tracked = DomainChanges::new().with_click_tracking(true);
    assert_eq!(kind(resend.domains.update(&domain.id, tracked).await).0, ErrorKind::ValidationError);
    resend.domains.verify(&domain.id).await.unwrap();
    assert_eq!(resend.domains.list(ListOptions::default()).await.unwrap().data.len(), 1);

    let key = resend.api_keys.create(CreateApiKeyOptions::new("shop").with_domain_access(&domain.id)).await.unwrap();
    let shop = sdk(&app.api().with_key(&key.token));
    shop.emails.send(email()).await.unwrap();
    let other = CreateEmailBaseOptions::new("a@other.test", ["ann@example.test"], "Hi").with_text("Hello");
    assert_eq!(kind(shop.emails.send(other).await).0, ErrorKind::ValidationError);
    assert_eq!(resend.api_keys.update(&key.id, UpdateApiKeyOptions::new("web shop")).await.unwrap().id, key.id);
    let names: Vec<String> =
        resend.api_keys.list(ListOptions::default()).await.unwrap().data.into_iter().map(|key| key.name).collect();
    assert!(names.contains(&"web shop".to_owned()), "{names:?}");
    resend.api_keys.delete(&key.id).await.unwrap();
    assert!(shop.emails.send(email()).await.is_err());
    assert!(resend.domains.delete(&domain.id).await.unwrap().deleted);
}

#[tokio::test]
async fn rust_sdk_manages_suppressions() {
    let (_app, resend) = start().await;
    let id = resend.suppressions.add(AddSuppressionOptions::new().with_email("gone@example.test")).await.unwrap().id;
    let entry = resend.suppressions.get("gone@example.test").await.unwrap();
    assert_eq!((entry.id, entry.email.as_str()), (id.clone(), "gone@example.test"));
    assert!(matches!(entry.origin, SuppressionOrigin::Manual));
    let more = BatchAddSuppressionOptions::new().add_emails(["a@example.test", "b@example.test"]);
    assert_eq!(resend.suppressions.batch_add(more).await.unwrap().data.len(), 2);
    assert_eq!(resend.suppressions.list(ListOptions::default()).await.unwrap().data.len(), 3);
    let gone = BatchRemoveSuppressionOptions::new().add_emails(["a@example.test", "b@example.test"]);
    assert_eq!(resend.suppressions.batch_remove(gone).await.unwrap().data.len(), 2);
    assert!(resend.suppressions.remove(&id).await.unwrap().deleted);
}

#[tokio::test]
async fn rust_sdk_manages_webhooks_and_parses_their_events() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let resend = sdk(&app);
    let url = receiver.url("/hook");
    let events = [EmailEventType::EmailSent, EmailEventType::EmailSuppressed, EmailEventType::EmailOpened];
    let created = resend.webhooks.create(CreateWebhookOptions::new(&*url, events)).await.unwrap();
    let shown = resend.webhooks.get(&created.id).await.unwrap();
    assert_eq!((shown.endpoint, shown.status.as_str(), shown.events.len()), (url.clone(), "enabled", 2));
    assert_eq!(resend.webhooks.list(ListOptions::default()).await.unwrap().data.len(), 1);
    // The library accepts only signatures of the last five minutes.
    app.clock.advance(SystemClock.now() - app.clock.now());
    app.post("/v1/suppressions", &json!("ann@example.test")).await;
    let id = resend.emails.send(email().with_tag(Tag::new("kind", "invoice"))).await.unwrap().id;
    app.notify().await;

    let verifier = Webhook::new(&created.signing_secret).unwrap();
    let mut kinds = Vec::new();
    for post in receiver.posts("/hook") {
        verifier.verify(post.text().as_bytes(), &post.headers).unwrap();
        let Event::EmailEvent(event) = try_parse_event(post.text()).unwrap() else { panic!("{}", post.text()) };
        assert_eq!((event.data.email_id.clone(), event.data.tags["kind"].as_str()), (id.clone(), "invoice"));
        kinds.push(event.r#type);
    }
    assert!(matches!(kinds[..], [EmailEventType::EmailSent, EmailEventType::EmailSuppressed]), "{kinds:?}");

    let posted = resend.webhooks.list_events(&created.id, ListOptions::default()).await.unwrap().data;
    assert!(posted.iter().all(|event| event.status == WebhookEventStatus::Success), "{posted:?}");
    let first = posted.iter().find(|event| event.event_type == "email.sent").unwrap();
    let event = resend.webhooks.get_event(&created.id, &first.id).await.unwrap();
    assert_eq!((event.event_type.as_str(), &event.payload["data"]["email_id"]), ("email.sent", &json!(id)));
    assert_eq!(resend.webhooks.replay_event(&created.id, &event.id).await.unwrap().id, event.id);
    app.notify_after(1).await;
    let attempts = resend.webhooks.list_event_attempts(&created.id, &event.id, ListOptions::default()).await.unwrap();
    assert_eq!(attempts.data.iter().map(|attempt| attempt.http_status_code).collect::<Vec<_>>(), [200, 200]);

    let rotated = resend.webhooks.rotate_signing_secret(&created.id).await.unwrap();
    assert_ne!(rotated.signing_secret, created.signing_secret);
    let disabled = UpdateWebhookOptions::default().with_status(WebhookStatus::Disabled);
    resend.webhooks.update(&created.id, disabled).await.unwrap();
    assert_eq!(resend.webhooks.get(&created.id).await.unwrap().status, "disabled");
    assert!(resend.webhooks.delete(&created.id).await.unwrap());
}
