//! A check that cannot decide: nothing is sent until one can.

use super::service::Mail;
use crate::support::postgres::Database;

#[tokio::test]
async fn guard_that_cannot_check_the_database_sends_nothing() {
    let database = Database::new();
    let mail = Mail::new(&database.url).await;
    let mut service = mail.start(&database.url).await;
    let count = mail.delivers(&service).await;
    let mut blocker = database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE installation IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
    service.logged_event("restore_guard_undecided").await;

    let id = mail.accepted(&service).await;
    let api = mail.api(&service);
    let explained = api.get(&format!("/v1/messages/{id}/explain")).await.body;
    assert_eq!(explained["recipients"][0]["blocker"]["kind"], "restore_guard", "{explained}");
    mail.checked_twice(&api).await;
    assert_eq!((api.status(&id).await.as_str(), mail.smtp.messages().len()), ("queued", count));

    sqlx::raw_sql("COMMIT").execute(&mut blocker).await.unwrap();
    mail.reaches(&service, &id, "relayed").await;
}
