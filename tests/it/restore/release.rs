//! `postrider release`: what it shows, its choices, and what it does on every replica.

use chrono::TimeDelta;
use postrider::clock::{Clock as _, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};

use super::server::LIMIT;
use super::service::Mail;
use crate::support::postgres::Database;
use crate::support::process::Service;
use crate::support::receiver::Receiver;
use crate::support::until::until;

/// A database that looks as if its dump had been restored, with messages that wait.
struct Restored {
    database: Database,
    mail: Mail,
    /// A deferred message of the stream transactional, a scheduled one of it, and a deferred one of the stream bulk.
    deferred: String,
    scheduled: String,
    bulk: String,
    receiver: Receiver,
    /// Number of posts before the restore.
    posts: usize,
}

const HOOK: &str = "/hook";

async fn restored() -> Restored {
    let (database, receiver) = (Database::new(), Receiver::start().await);
    let mail = Mail::new(&database.url).await;
    let mut command = mail.command(&database.url);
    command.env("POSTRIDER_WEBHOOKS__ALLOW_PRIVATE", "true");
    let service = Service::start(command).await;
    let admin = mail.admin(&database.url, &service).await;
    let created = admin.post("/v1/webhooks", &json!({"url": receiver.url(HOOK)})).await;
    assert_eq!(created.status, 201, "{:?}", created.body);
    let api = mail.api(&service);
    mail.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later", "451 4.3.0 later"]);
    let deferred = api.send(json!({"to": "ann@example.test"})).await.id;
    mail.reaches(&service, &deferred, "deferred").await;
    let bulk = api.send(json!({"to": "ann@example.test", "stream": "bulk"})).await.id;
    mail.reaches(&service, &bulk, "deferred").await;
    let scheduled = api.send(json!({"scheduled_at": in_300_days()})).await.id;
    let count = mail.feed(&service, 0).await.len();
    let posts = receiver.received(HOOK, count).await.len();
    assert!(service.terminate().await.success());
    sqlx::raw_sql(
        "UPDATE installation SET database_oid = database_oid + 1; UPDATE queue SET due_at = now() WHERE attempts > 0;
         UPDATE lanes SET ready_at = now()",
    )
    .execute(&mut database.connect().await)
    .await
    .unwrap();
    Restored { database, mail, deferred, scheduled, bulk, receiver, posts }
}

/// Returns the present time, by the database's clock.
async fn now(database: &Database) -> String {
    let query = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    sqlx::query_scalar(query).fetch_one(&mut database.connect().await).await.unwrap()
}

impl Restored {
    async fn start(&self) -> Service {
        let mut command = self.mail.command(&self.database.url);
        command.env("POSTRIDER_WEBHOOKS__ALLOW_PRIVATE", "true");
        Service::start(command).await
    }

    async fn release(&self, arguments: &[&str]) -> String {
        self.mail.release(&self.database.url, arguments).await
    }
}

/// Returns a time that is far ahead, and not too far to be scheduled.
fn in_300_days() -> String {
    (SystemClock.now() + TimeDelta::days(300)).to_rfc3339()
}

#[tokio::test]
async fn release_shows_counts_and_acts_only_with_yes() {
    let restored = restored().await;
    let mut service = restored.start().await;
    let (reason, new) = restored.mail.holds(&mut service).await;
    assert_eq!(reason, "moved");
    let shown = restored.release(&[]).await;
    for expected in
        ["transactional: 2 accepted before the hold; 1 accepted since then", "bulk: 1 accepted", "--resume", "--cancel"]
    {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    let shown = restored.release(&["--cancel", "--stream", "bulk", "--keep-holding"]).await;
    assert!(shown.contains("1 of them become canceled") && shown.contains("Add --yes"), "{shown}");
    let api = restored.mail.api(&service);
    assert_eq!(api.status(&restored.bulk).await, "deferred");

    let done = restored.release(&["--cancel", "--stream", "bulk", "--keep-holding", "--yes"]).await;
    assert!(done.contains("1 recipients are canceled") && done.contains("still holds"), "{done}");
    assert_eq!(api.status(&restored.bulk).await, "canceled");
    let count = restored.mail.smtp.messages().len();
    assert_eq!(api.status(&restored.deferred).await, "deferred", "the guard still holds");

    let done = restored.release(&["--uncertain-before", &now(&restored.database).await, "--yes"]).await;
    assert!(done.contains("1 recipients are uncertain") && done.contains("continue within seconds"), "{done}");
    service.logged_event("restore_guard_released").await;
    restored.mail.reaches(&service, &new, "relayed").await;
    assert_eq!(restored.mail.smtp.messages().len(), count + 1, "only the message that was accepted during the hold");
    assert_eq!(api.status(&restored.deferred).await, "uncertain");
    assert_eq!(api.status(&restored.scheduled).await, "scheduled");
    assert_eq!(restored.release(&[]).await, "The restore guard does not hold; there is nothing to release.\n");

    let admin = restored.mail.admin(&restored.database.url, &service).await;
    let audit = admin.get("/v1/audit?action=release_restore_guard").await.body;
    let choices: Vec<&Value> =
        audit["data"].as_array().unwrap().iter().map(|entry| &entry["after"]["choice"]).collect();
    assert_eq!(choices, ["uncertain", "cancel"], "{audit}");
}

#[tokio::test]
async fn release_resumes_all_replicas_and_webhooks() {
    let restored = restored().await;
    let (mut first, mut second) = (restored.start().await, restored.start().await);
    restored.mail.holds(&mut first).await;
    second.logged_event("restore_guard_holds").await;
    assert_eq!(restored.receiver.posts(HOOK).len(), restored.posts, "webhooks wait");

    let mut worker = restored.mail.command(&restored.database.url);
    worker.args(["--only", "worker"]).env("POSTRIDER_METRICS__LISTEN", "127.0.0.1:0");
    // Any of the three may post.
    worker.env("POSTRIDER_WEBHOOKS__ALLOW_PRIVATE", "true");
    let worker = Service::start(worker).await;
    let ops = crate::support::client::Api::new(worker.ops.clone().unwrap(), "");
    let text = async |path: &str| {
        let response = ops.anonymous(Method::GET, path).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, body) = text("/readyz").await;
    assert!(status == 503 && body.contains("postrider release"), "{body}");
    assert!(text("/metrics").await.1.contains("postrider_restore_guard_holding 1"));

    restored.release(&["--resume", "--yes"]).await;
    first.logged_event("restore_guard_released").await;
    second.logged_event("restore_guard_released").await;
    until("the worker is ready", LIMIT, async || {
        let (status, body) = text("/readyz").await;
        if status == 200 { Ok(()) } else { Err(body) }
    })
    .await;
    assert!(text("/metrics").await.1.contains("postrider_restore_guard_holding 0"));
    restored.mail.reaches(&first, &restored.deferred, "relayed").await;
    restored.mail.reaches(&first, &restored.bulk, "relayed").await;
    let admin = restored.mail.admin(&restored.database.url, &first).await;
    until("a post says that the feed was restored", LIMIT, async || {
        let posts = restored.receiver.posts(HOOK);
        let is_restored = posts.iter().any(|post| post.text().contains("feed.restored"));
        if is_restored {
            return Ok(());
        }
        Err(format!("{} posts: {}", posts.len(), admin.get("/v1/webhooks").await.body))
    })
    .await;
}

#[tokio::test]
async fn release_ends_what_was_to_be_passed_on() {
    let restored = restored().await;
    let mut service = restored.start().await;
    restored.mail.holds(&mut service).await;
    let row = "INSERT INTO relays (tenant_id, received_id, position, reverse_path, recipient)
               SELECT tenant_id, uuid_floor(now() - interval '1 hour'), 0, '', 'support@acme.test' FROM lanes LIMIT 1";
    sqlx::query(row).execute(&mut restored.database.connect().await).await.unwrap();
    let done = restored.release(&["--cancel", "--stream", "bulk", "--keep-holding", "--yes"]).await;
    assert!(!done.contains("received messages"), "{done}");
    let done = restored.release(&["--cancel", "--yes"]).await;
    assert!(done.contains("1 received messages are not passed on"), "{done}");
}

#[tokio::test]
async fn release_ends_what_a_living_worker_has_leased() {
    let restored = restored().await;
    let mut service = restored.start().await;
    restored.mail.holds(&mut service).await;
    let count = restored.mail.smtp.messages().len();
    // Sent to before the restore; the claim was restored, and its outcome was lost.
    let leased = sqlx::query(
        "UPDATE queue SET lease = (SELECT id FROM workers ORDER BY heartbeat_at DESC LIMIT 1), claims = claims + 1
         WHERE attempts > 0 AND lane_id IN (SELECT id FROM lanes WHERE stream = 'transactional')",
    )
    .execute(&mut restored.database.connect().await)
    .await
    .unwrap();
    assert_eq!(leased.rows_affected(), 1);
    let done = restored.release(&["--uncertain-before", &now(&restored.database).await, "--yes"]).await;
    assert!(done.contains("2 recipients are uncertain"), "{done}");
    service.logged_event("restore_guard_released").await;
    restored.mail.smtp.received(count + 1).await;
    let api = restored.mail.api(&service);
    assert_eq!(api.status(&restored.deferred).await, "uncertain");
}

#[tokio::test]
async fn actions_that_make_recipients_due_wait_for_the_release() {
    let restored = restored().await;
    let mut service = restored.start().await;
    restored.mail.holds(&mut service).await;
    let api = restored.mail.api(&service);
    let start = async |action: &str, stream: &str| {
        let body = json!({"action": action, "filter": {"stream": stream}});
        let started = api.post("/v1/messages/actions", &body).await;
        assert_eq!(started.status, 202, "{}", started.body);
        started.body["id"].as_str().unwrap().to_owned()
    };
    let status = async |id: &str| api.get(&format!("/v1/actions/{id}")).await.body["status"].clone();
    let done = async |id: &str| {
        until("the action is done", LIMIT, async || {
            let found = status(id).await;
            if found == "done" { Ok(()) } else { Err(found) }
        })
        .await;
    };
    let retry = start("retry", "transactional").await;
    done(&start("cancel", "bulk").await).await;
    assert_eq!(status(&retry).await, "running", "it waits");
    let released = restored.release(&["--uncertain-before", &now(&restored.database).await, "--yes"]).await;
    assert!(released.contains("1 recipients are uncertain"), "{released}");
    done(&retry).await;
    assert_eq!(api.status(&restored.bulk).await, "canceled");
}

#[tokio::test]
async fn guard_holds_before_it_can_record_the_hold() {
    let database = Database::new();
    let mail = Mail::new(&database.url).await;
    let mut service = mail.start(&database.url).await;
    mail.delivers(&service).await;
    let mut writer = database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM event_counters FOR UPDATE").execute(&mut writer).await.unwrap();
    let lowered = "UPDATE installation SET mark = mark - 1000000";
    sqlx::raw_sql(lowered).execute(&mut database.connect().await).await.unwrap();
    let held = service.logged_event("restore_guard_holds").await;
    assert_eq!(held["reason"], "rolled_back");
    let recorded = async || {
        let query = "SELECT held_at IS NOT NULL FROM installation";
        sqlx::query_scalar::<_, bool>(query).fetch_one(&mut database.connect().await).await.unwrap()
    };
    assert!(!recorded().await, "it waits for the writer");
    sqlx::raw_sql("ROLLBACK").execute(&mut writer).await.unwrap();
    until("the hold is recorded", LIMIT, async || if recorded().await { Ok(()) } else { Err("not yet") }).await;
    let id = mail.accepted(&service).await;
    assert_eq!(mail.api(&service).status(&id).await, "queued");
}

#[tokio::test]
async fn bulk_that_is_due_later_continues() {
    let restored = restored().await;
    let mut service = restored.start().await;
    restored.mail.holds(&mut service).await;
    let bulk = json!({"from": "news@acme.test", "subject": "Our news", "text": "We have moved.",
        "scheduled_at": in_300_days(), "recipients": [{"to": "bob@example.test"}]});
    let accepted = restored.mail.api(&service).post("/v1/messages/bulk", &bulk).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    // As if it had been accepted before the backup. Its messages are not created during a hold.
    let aged = "UPDATE bulks SET created_at = created_at - interval '1 day'";
    sqlx::raw_sql(aged).execute(&mut restored.database.connect().await).await.unwrap();
    let shown = restored.release(&["--uncertain-before", &now(&restored.database).await]).await;
    assert!(!shown.contains("recipients of bulks"), "{shown}");
    let shown = restored.release(&["--cancel"]).await;
    assert!(shown.contains("1 recipients of bulks"), "{shown}");
}

#[tokio::test]
async fn release_works_before_the_service_has_started() {
    let restored = restored().await;
    let shown = restored.release(&["--cancel", "--yes"]).await;
    assert!(shown.contains("in another database") && shown.contains("3 recipients are canceled"), "{shown}");
    let service = restored.start().await;
    restored.mail.delivers(&service).await;
    let api = restored.mail.api(&service);
    for id in [&restored.deferred, &restored.scheduled, &restored.bulk] {
        assert_eq!(api.status(id).await, "canceled");
    }
    let restarts = restored.mail.feed(&service, 0).await;
    assert_eq!(restarts.iter().filter(|event| event["type"] == "feed.restored").count(), 1);
}
