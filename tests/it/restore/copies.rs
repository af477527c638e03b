//! A database that was dumped and restored, rolled back with its volume, or copied beside the original.

use super::server::{NAME, Tools, text};
use super::service::Mail;
use crate::support::process::{Service, on, run};

#[tokio::test]
async fn restored_dump_holds_without_any_memory() {
    let Some(tools) = Tools::find() else { return };
    let original = tools.create("original", "");
    original.migrate().await;
    let mail = Mail::new(&original.url(NAME)).await;
    let service = mail.start(&original.url(NAME)).await;
    mail.delivers(&service).await;
    original.marked().await;
    let dump = tools.path("mail.dump");
    tools.run("ops/backup/dump", &[&original.url(NAME), dump.to_str().unwrap()]);
    mail.delivers(&service).await;

    // On a new server.
    let restored = tools.create("restored", "");
    tools.run("ops/backup/restore-dump", &[&restored.url(NAME), dump.to_str().unwrap()]);
    let mut on_restored = Service::start(mail.forgetful(&restored.url(NAME))).await;
    assert_eq!(mail.holds(&mut on_restored).await.0, "moved");
    // The original goes on.
    mail.delivers(&service).await;
    assert!(service.terminate().await.success());

    // In the same server, into a new database and into the old one.
    for name in ["other", NAME] {
        if name == NAME {
            tools.run(
                "psql",
                &["--quiet", "-c", &format!("DROP DATABASE {NAME} WITH (FORCE)"), &original.url("postgres")],
            );
        }
        tools.run("psql", &["--quiet", "-c", &format!("CREATE DATABASE {name}"), &original.url("postgres")]);
        tools.run("ops/backup/restore-dump", &[&original.url(name), dump.to_str().unwrap()]);
        let mut again = Service::start(mail.forgetful(&original.url(name))).await;
        assert_eq!(mail.holds(&mut again).await.0, "moved", "{name}");
    }
}

#[tokio::test]
async fn rolled_back_volume_holds() {
    let Some(tools) = Tools::find() else { return };
    let mut server = tools.create("volume", "");
    server.migrate().await;
    let mail = Mail::new(&server.url(NAME)).await;
    let service = mail.start(&server.url(NAME)).await;
    mail.delivers(&service).await;
    assert!(service.terminate().await.success());
    server.stop("fast");
    let snapshot = tools.path("snapshot");
    tools.run("/bin/cp", &["-a", text(&server.data), text(&snapshot)]);
    server.start();
    let service = mail.start(&server.url(NAME)).await;
    mail.delivers(&service).await;
    mail.remembers(&server).await;
    assert!(service.terminate().await.success());
    server.stop("fast");
    let rolled_back = tools.start("snapshot");
    let mut service = mail.start(&rolled_back.url(NAME)).await;
    assert_eq!(mail.holds(&mut service).await.0, "rolled_back");
}

#[tokio::test]
async fn rollback_is_noticed_after_another_machine_has_used_it() {
    let Some(tools) = Tools::find() else { return };
    let mut server = tools.create("volume", "");
    server.migrate().await;
    let mail = Mail::new(&server.url(NAME)).await;
    let service = mail.start(&server.url(NAME)).await;
    mail.delivers(&service).await;
    assert!(service.terminate().await.success());
    server.stop("fast");
    let snapshot = tools.path("snapshot");
    tools.run("/bin/cp", &["-a", text(&server.data), text(&snapshot)]);
    server.start();
    let service = mail.start(&server.url(NAME)).await;
    mail.delivers(&service).await;
    mail.remembers(&server).await;
    assert!(service.terminate().await.success());
    let lost = server.number("SELECT mark FROM installation").await;
    server.stop("fast");

    // A process without a memory makes more marks and events than were lost.
    let rolled_back = tools.start("snapshot");
    let forgetful = Service::start(mail.forgetful(&rolled_back.url(NAME))).await;
    for _ in 0..3 {
        mail.delivers(&forgetful).await;
    }
    // Its WAL is longer, too.
    rolled_back.sql("SELECT pg_switch_wal()").await;
    rolled_back.until(&format!("SELECT mark > {lost} + 1 FROM installation")).await;
    assert_eq!(rolled_back.number("SELECT cardinality(earlier_branches) FROM installation").await, 1);
    let mut service = mail.start(&rolled_back.url(NAME)).await;
    // The process that uses it holds, too, after its next check. Until then it may send what the other one accepts.
    let mut forgetful = forgetful;
    forgetful.logged_event("restore_guard_holds").await;
    assert_eq!(mail.holds(&mut service).await.0, "rolled_back");
    assert_eq!(mail.holds(&mut forgetful).await.0, "rolled_back");
}

#[tokio::test]
async fn process_without_a_memory_does_not_stop_the_others() {
    let Some(tools) = Tools::find() else { return };
    let server = tools.create("shared", "");
    server.migrate().await;
    let mail = Mail::new(&server.url(NAME)).await;
    let service = mail.start(&server.url(NAME)).await;
    mail.delivers(&service).await;
    mail.remembers(&server).await;
    for branches in 1..=2 {
        let forgetful = Service::start(mail.forgetful(&server.url(NAME))).await;
        mail.delivers(&forgetful).await;
        server.until(&format!("SELECT cardinality(earlier_branches) = {branches} FROM installation")).await;
        server.marked().await;
        mail.delivers(&service).await;
        assert!(forgetful.terminate().await.success());
    }
    assert!(service.terminate().await.success());
    let again = mail.start(&server.url(NAME)).await;
    mail.delivers(&again).await;
}

#[tokio::test]
async fn copy_with_another_name_holds_beside_the_original() {
    let Some(tools) = Tools::find() else { return };
    let original = tools.create("original", "");
    original.migrate().await;
    let mail = Mail::new(&original.url(NAME)).await;
    let named = |url: &str, name: &str| {
        let mut command = mail.forgetful(url);
        command.env("POSTRIDER_RESTORE_GUARD__INSTALLATION", name);
        command
    };
    let production = Service::start(named(&original.url(NAME), "production")).await;
    mail.delivers(&production).await;
    let copy = tools.path("copy");
    tools.run("ops/backup/base-backup", &[&original.url("postgres"), copy.to_str().unwrap()]);
    let copied = tools.start("copy");
    let mut staging = Service::start(named(&copied.url(NAME), "staging")).await;
    assert_eq!(mail.holds(&mut staging).await.0, "other_installation");
    mail.delivers(&production).await;

    // A process of staging that connects to the database of production stops only itself.
    let mut lost = Service::start(named(&original.url(NAME), "staging")).await;
    lost.logged_event("restore_guard_holds").await;
    mail.delivers(&production).await;
    lost.kill().await;

    // Cancel what was copied: the copy belongs to staging from then on.
    let mut release = on(&copied.url(NAME), &["release", "--cancel", "--yes"]);
    release.env("POSTRIDER_RESTORE_GUARD__INSTALLATION", "staging");
    assert!(run(release).await.status.success());
    staging.logged_event("restore_guard_released").await;
    let count = mail.smtp.messages().len();
    mail.accepted(&staging).await;
    mail.smtp.received(count + 1).await;
    assert_eq!(copied.number("SELECT count(*) FROM events WHERE type = 'feed.restored'").await, 1);
    let mut production_on_copy = Service::start(named(&copied.url(NAME), "production")).await;
    production_on_copy.logged_event("restore_guard_holds").await;
}
