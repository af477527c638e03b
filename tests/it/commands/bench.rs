//! `postrider bench`, run as an operator runs it: it reports every figure, counts lost and duplicated messages, does not send
//! existing messages, and cleans up.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, complaint, key, postrider, run, serve, signal};
use crate::support::smtp::SmtpServer;

fn bench(arguments: &[&str]) -> Command {
    postrider(&[&["bench", "--json", "--connections", "8"], arguments].concat())
}

/// The object on standard output.
fn figures(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", complaint(output)))
}

/// A directory that Postgres can reach although we are root.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[tokio::test]
async fn a_small_run_tells_every_figure_and_leaves_nothing() {
    let dir = directory();
    let done = run(bench(&["--messages", "200", "--dir", dir.path().to_str().unwrap()])).await;
    let told = figures(&done);
    assert!(done.status.success() && is_empty(dir.path()), "{}", complaint(&done));
    for count in ["lost", "duplicates", "misdelivered", "refused", "unanswered", "backlog", "backlog_sent"] {
        assert_eq!(told[count], 0, "{count}");
    }
    assert_eq!((&told["accepted"], &told["arrived"], &told["settled"]), (&json!(200), &json!(200), &json!(true)));
    for figure in [
        "accept_per_s",
        "accept_p50_ms",
        "accept_p99_ms",
        "end_to_end_per_s",
        "cpu_us_per_mail",
        "cpu_us_service",
        "cpu_us_postgres",
        "wal_bytes_per_mail",
        "service_rss_mib",
        "service_rss_idle_mib",
        "seconds",
    ] {
        assert!(told[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure} is {}", told[figure]);
    }
    // With few messages these may be less than a tick or a page, and a message may be sent before its 202 is read.
    for figure in ["idle_first_byte_p50_ms", "cpu_us_sink", "cpu_us_generator", "disk_bytes_per_mail"] {
        assert!(told[figure].as_f64().is_some_and(|figure| figure >= 0.0), "{figure} is {}", told[figure]);
    }
    let durable = told["machine"]["postgres_settings"].as_array().unwrap();
    assert!(durable.contains(&json!("fsync = on")) && durable.contains(&json!("synchronous_commit = on")));
    assert!(told["options"]["connections"] == 8 && told["version"].is_string() && told["machine"]["cores"].is_u64());
    assert!(complaint(&done).contains("lost / duplicates         0 / 0"), "{}", complaint(&done));
}

#[tokio::test]
async fn what_does_not_arrive_is_lost() {
    let database = Database::empty();
    let options = ["--messages", "40", "--recipients", "2", "--patience", "1s", "--sink-refuses", "4"];
    let done = run(bench(&[&options[..], &["--database-url", &database.url]].concat())).await;
    let told = figures(&done);
    // Ten of the forty are refused, both recipients of each.
    assert_eq!((&told["accepted"], &told["arrived"], &told["lost"]), (&json!(40), &json!(60), &json!(20)));
    assert_eq!((&told["duplicates"], &told["settled"]), (&json!(0), &json!(true)));
    assert_eq!(done.status.code(), Some(1));

    let again = run(bench(&["--messages", "1", "--database-url", &database.url])).await;
    assert!(!again.status.success() && complaint(&again).contains("--yes"), "{}", complaint(&again));
    let wanted = run(bench(&["--messages", "1", "--yes", "--database-url", &database.url])).await;
    assert_eq!((&figures(&wanted)["lost"], wanted.status.success()), (&json!(0), true));
}

#[tokio::test]
async fn mail_is_signed_where_that_is_asked_for() {
    let database = Database::empty();
    for dkim in ["rsa", "ed25519", "none"] {
        let done = run(bench(&["--messages", "20", "--dkim", dkim, "--yes", "--database-url", &database.url])).await;
        let told = figures(&done);
        let signed = if dkim == "none" { 0 } else { 20 };
        assert_eq!((&told["signed"], &told["lost"]), (&json!(signed), &json!(0)), "{dkim}: {}", complaint(&done));
    }
}

#[tokio::test]
async fn what_comes_again_is_a_duplicate() {
    let database = Database::empty();
    let mut command = bench(&["--messages", "40", "--sink-hangs-up", "10", "--database-url", &database.url]);
    // This setting is passed on to the service: without it the second copies would come a minute later.
    command.env("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "1s");
    let done = run(command).await;
    let told = figures(&done);
    assert_eq!((&told["accepted"], &told["lost"], &told["settled"]), (&json!(40), &json!(0), &json!(true)));
    assert!(told["duplicates"].as_u64().unwrap() >= 3, "{}", told["duplicates"]);
    assert_eq!(done.status.code(), Some(1));
}

#[tokio::test]
async fn every_option_at_once() {
    let database = Database::empty();
    let options = "--messages 60 --recipients 2 --attachment 30000 --same-attachment --domains 5 --direct --replicas 2 --backlog 50 \
                   --backlog-kind due --held-transaction --rate 100 --size 100";
    let words: Vec<&str> = options.split_whitespace().chain(["--database-url", &database.url]).collect();
    let done = run(bench(&words)).await;
    let told = figures(&done);
    for (name, value) in [("accepted", 60), ("arrived", 120), ("lost", 0), ("duplicates", 0), ("misdelivered", 0)] {
        assert_eq!(told[name], value, "{name}: {}", complaint(&done));
    }
    // Sixty messages at a hundred per second.
    assert!(told["accept_per_s"].as_f64().unwrap() < 110.0, "{}", told["accept_per_s"]);
    assert_eq!((&told["backlog"], &told["idle_first_byte_p50_ms"]), (&json!(50), &Value::Null));
    assert!(done.status.success());
}

#[tokio::test]
async fn a_backlog_waits_and_the_api_alone_sends_nothing() {
    let database = Database::empty();
    let words = ["--messages", "20", "--backlog", "700", "--database-url", &database.url];
    let told = figures(&run(bench(&words)).await);
    assert_eq!((&told["backlog"], &told["backlog_sent"], &told["lost"]), (&json!(700), &json!(0), &json!(0)));
    // The same messages wait in the second run.
    let words = ["--messages", "20", "--backlog", "700", "--accept-only", "--yes", "--database-url", &database.url];
    let told = figures(&run(bench(&words)).await);
    assert_eq!((&told["accepted"], &told["backlog"]), (&json!(20), &json!(700)));
    assert_eq!((&told["end_to_end_per_s"], &told["lost"]), (&Value::Null, &Value::Null));
    // Now other messages wait too.
    let refused = run(bench(&["--yes", "--database-url", &database.url])).await;
    assert!(complaint(&refused).contains("messages wait in this database"), "{}", complaint(&refused));
}

#[tokio::test]
async fn nobodys_mail_is_sent_to_the_sink() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let api = Service::start(serve(&database.url, smtp.address(), &["--only", "api"])).await;
    Api::new(api.address.clone().unwrap(), key(&database.url).await).send(json!({})).await;
    let refused = run(bench(&["--yes", "--database-url", &database.url])).await;
    let said = complaint(&refused);
    assert!(!refused.status.success() && said.contains("messages wait in this database"), "{said}");
    assert!(api.terminate().await.success());
}

#[tokio::test]
async fn mistakes_are_told_in_one_line_with_the_fix() {
    for (arguments, words) in [
        (&["--attachment", "29000000", "--size", "4000000"][..], "40 MiB"),
        (&["--dir", "/proc/none"], "choose another with --dir"),
        (&["--messages", "50000000", "--attachment", "20000000"], "MiB are free"),
        (&["--database-url", "postgres://u:secret@127.0.0.1:1/x"], "not available"),
    ] {
        let refused = run(bench(arguments)).await;
        let said = complaint(&refused);
        let told: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("error: ")).collect();
        assert!((1..=2).contains(&told.len()) && told.iter().skip(1).all(|line| line.starts_with("hint: ")), "{said}");
        assert!(told.concat().contains(words) && !said.contains("secret"), "{said}");
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    }
}

/// Starts a long run and waits until it measures.
async fn under_way(dir: &Path) -> (Child, BufReader<tokio::process::ChildStderr>) {
    let mut command = bench(&["--duration", "1h", "--rate", "20", "--dir", dir.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while line.trim() != "measuring" {
        line.clear();
        assert!(said.read_line(&mut line).await.unwrap() > 0, "it ended");
    }
    (child, said)
}

#[tokio::test]
async fn told_to_stop_it_clears_everything_away() {
    let dir = directory();
    let (mut child, mut said) = under_way(dir.path()).await;
    signal(&child, "TERM").await;
    let mut rest = String::new();
    // Reads until all processes that hold it have ended, the sink included.
    said.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("stopped before the end") && !child.wait().await.unwrap().success(), "{rest}");
    assert!(is_empty(dir.path()));
}

#[tokio::test]
async fn killed_it_leaves_nothing_behind() {
    let dir = directory();
    let (mut child, mut said) = under_way(dir.path()).await;
    child.kill().await.unwrap();
    said.read_to_end(&mut Vec::new()).await.unwrap();
    // Postgres and the directory are removed a moment later.
    let gone = async {
        while !is_empty(dir.path()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("an empty directory");
}
