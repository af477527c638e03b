//! Recovery to a time before the last messages, from a base backup and archived WAL.

use super::server::{NAME, Tools, text};
use super::service::Mail;
use crate::support::process::Service;

#[tokio::test]
async fn point_in_time_recovery_and_old_base_backup_hold() {
    let Some(tools) = Tools::find() else { return };
    let archive = tools.create_dir("archive");
    let settings = format!("archive_mode = on\narchive_command = 'cp \"%p\" \"{}/%f\"'", text(&archive));
    let mut original = tools.create("original", &settings);
    original.migrate().await;
    let mail = Mail::new(&original.url(NAME)).await;
    let service = mail.start(&original.url(NAME)).await;
    mail.delivers(&service).await;
    let backup = tools.path("backup");
    tools.run("ops/backup/base-backup", &[&original.url("postgres"), text(&backup)]);
    mail.delivers(&service).await;
    original.marked().await;
    original.sql("SELECT pg_create_restore_point('before')").await;
    mail.delivers(&service).await;
    mail.remembers(&original).await;
    service.kill().await;
    // The archiver copies the last segment before the server stops.
    original.sql("SELECT pg_switch_wal()").await;
    original.stop("fast");

    let recovered = tools.path("recovered");
    tools.run("ops/backup/restore-to", &[text(&backup), text(&archive), text(&recovered), "name", "before"]);
    let recovered = tools.start("recovered");
    recovered.until("SELECT NOT pg_is_in_recovery()").await;
    let mut service = mail.start(&recovered.url(NAME)).await;
    assert_eq!(mail.holds(&mut service).await.0, "lost_tail");
    service.kill().await;

    // The base backup alone, on the same timeline.
    let base = tools.start("backup");
    let mut service = Service::start(mail.command(&base.url(NAME))).await;
    let held = service.logged_event("restore_guard_holds").await;
    assert_eq!(held["reason"], "rolled_back");
}
