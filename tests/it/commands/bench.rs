//! `postrider bench` reports every figure, counts lost and duplicate messages, does not send existing messages, and
//! cleans up.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, postrider, run, serve, signal, stderr_of};
use crate::support::smtp::SmtpServer;

fn bench(arguments: &[&str]) -> Command {
    postrider(&[&["bench", "--json", "--connections", "8"], arguments].concat())
}

/// Returns the JSON object on standard output.
fn figures(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr_of(output)))
}

/// Returns a directory that Postgres can enter, also if the tests run as root.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[tokio::test]
async fn small_run_reports_every_figure_and_cleans_up() {
    let dir = directory();
    let output = run(bench(&["--messages", "200", "--dir", dir.path().to_str().unwrap()])).await;
    let results = figures(&output);
    assert!(output.status.success() && is_empty(dir.path()), "{}", stderr_of(&output));
    for count in ["lost", "duplicates", "misdelivered", "refused", "unanswered", "backlog", "backlog_sent"] {
        assert_eq!(results[count], 0, "{count}");
    }
    assert_eq!(
        (&results["accepted"], &results["arrived"], &results["settled"]),
        (&json!(200), &json!(200), &json!(true))
    );
    for figure in [
        "accept_per_s",
        "accept_p50_ms",
        "accept_p99_ms",
        "end_to_end_per_s",
        "cpu_us_per_message",
        "cpu_us_service",
        "cpu_us_postgres",
        "wal_bytes_per_message",
        "service_rss_mib",
        "service_rss_idle_mib",
        "seconds",
    ] {
        assert!(results[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure} is {}", results[figure]);
    }
    // With few messages, these figures may be zero: less than one clock tick or one disk page. A message may also be
    // sent before its 202 is read.
    for figure in ["idle_first_byte_p50_ms", "cpu_us_sink", "cpu_us_generator", "disk_bytes_per_message"] {
        assert!(results[figure].as_f64().is_some_and(|figure| figure >= 0.0), "{figure} is {}", results[figure]);
    }
    let durable = results["machine"]["postgres_settings"].as_array().unwrap();
    assert!(durable.contains(&json!("fsync = on")) && durable.contains(&json!("synchronous_commit = on")));
    assert!(
        results["options"]["connections"] == 8
            && results["version"].is_string()
            && results["machine"]["cores"].is_u64()
    );
    assert!(stderr_of(&output).contains("lost / duplicates         0 / 0"), "{}", stderr_of(&output));
}

#[tokio::test]
async fn batches_are_measured_per_message() {
    let database = Database::empty();
    let options = ["--messages", "250", "--batch", "20", "--recipients", "2", "--database-url", &database.url];
    let output = run(bench(&options)).await;
    let results = figures(&output);
    assert!(output.status.success(), "{}", stderr_of(&output));
    assert_eq!((&results["accepted"], &results["arrived"]), (&json!(260), &json!(520)), "whole batches");
    assert_eq!((&results["lost"], &results["duplicates"], &results["misdelivered"]), (&json!(0), &json!(0), &json!(0)));
}

#[tokio::test]
async fn bulks_and_templates_are_measured_per_message() {
    let database = Database::empty();
    for options in ["--bulk 100", "--bulk 100 --template", "--batch 50 --template", "--template --messages 300"] {
        let messages = if options.contains("--messages") { "" } else { "--messages 250 " };
        let line = format!("{messages}{options} --yes --database-url {}", database.url);
        let output = run(bench(&line.split_whitespace().collect::<Vec<_>>())).await;
        let results = figures(&output);
        let accepted = if options.contains("--batch") { 250 } else { 300 };
        for (name, value) in
            [("accepted", accepted), ("arrived", accepted), ("lost", 0), ("duplicates", 0), ("misdelivered", 0)]
        {
            assert_eq!(results[name], value, "{options}: {name}: {}", stderr_of(&output));
        }
        assert!(output.status.success() && results["settled"] == true, "{options}: {}", stderr_of(&output));
    }
}

#[tokio::test]
async fn submitted_messages_are_measured() {
    let database = Database::empty();
    let options = "--submission --messages 300 --recipients 2 --domains 3 --replicas 2 --keys 5";
    let arguments: Vec<&str> = options.split_whitespace().chain(["--database-url", &database.url]).collect();
    let output = run(bench(&arguments)).await;
    let results = figures(&output);
    for (name, value) in
        [("accepted", 300), ("arrived", 600), ("lost", 0), ("duplicates", 0), ("misdelivered", 0), ("refused", 0)]
    {
        assert_eq!(results[name], value, "{name}: {}", stderr_of(&output));
    }
    assert!(output.status.success() && results["settled"] == true, "{}", stderr_of(&output));
    let mut connection = database.connect().await;
    let sql = "SELECT count(DISTINCT key_id), count(*) FROM messages m JOIN contents c ON c.id = m.content_id WHERE c.attachments <> '[]'";
    let (keys, submitted): (i64, i64) = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
    assert_eq!((keys, submitted), (5, 300), "submitted MIME is kept as a file");
}

#[tokio::test]
async fn missing_messages_are_counted_as_lost() {
    let database = Database::empty();
    let options = ["--messages", "40", "--recipients", "2", "--patience", "1s", "--sink-refuses", "4"];
    let output = run(bench(&[&options[..], &["--database-url", &database.url]].concat())).await;
    let results = figures(&output);
    // The sink refuses ten of the forty messages, for both of their recipients.
    assert_eq!((&results["accepted"], &results["arrived"], &results["lost"]), (&json!(40), &json!(60), &json!(20)));
    assert_eq!((&results["duplicates"], &results["settled"]), (&json!(0), &json!(true)));
    assert_eq!(output.status.code(), Some(1));

    let refused = run(bench(&["--messages", "1", "--database-url", &database.url])).await;
    assert!(!refused.status.success() && stderr_of(&refused).contains("--yes"), "{}", stderr_of(&refused));
    let confirmed = run(bench(&["--messages", "1", "--yes", "--database-url", &database.url])).await;
    assert_eq!((&figures(&confirmed)["lost"], confirmed.status.success()), (&json!(0), true));
}

#[tokio::test]
async fn messages_are_signed_if_requested() {
    let database = Database::empty();
    for dkim in ["rsa", "ed25519", "none"] {
        let output = run(bench(&["--messages", "20", "--dkim", dkim, "--yes", "--database-url", &database.url])).await;
        let results = figures(&output);
        let signed = if dkim == "none" { 0 } else { 20 };
        assert_eq!(
            (&results["signed"], &results["lost"]),
            (&json!(signed), &json!(0)),
            "{dkim}: {}",
            stderr_of(&output)
        );
    }
}

#[tokio::test]
async fn second_copies_are_counted_as_duplicates() {
    let database = Database::empty();
    let mut command = bench(&["--messages", "40", "--sink-hangs-up", "10", "--database-url", &database.url]);
    // This setting is passed to the service. Without it, the second copies would be sent a minute later.
    command.env("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "1s");
    let output = run(command).await;
    let results = figures(&output);
    assert_eq!((&results["accepted"], &results["lost"], &results["settled"]), (&json!(40), &json!(0), &json!(true)));
    assert!(results["duplicates"].as_u64().unwrap() >= 3, "{}", results["duplicates"]);
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn all_options_can_be_combined() {
    let database = Database::empty();
    let options = "--messages 60 --recipients 2 --attachment 30000 --same-attachment --domains 5 --direct --replicas 2 --backlog 50 \
                   --backlog-kind due --held-transaction --rate 100 --size 100";
    let arguments: Vec<&str> = options.split_whitespace().chain(["--database-url", &database.url]).collect();
    let output = run(bench(&arguments)).await;
    let results = figures(&output);
    for (name, value) in [("accepted", 60), ("arrived", 120), ("lost", 0), ("duplicates", 0), ("misdelivered", 0)] {
        assert_eq!(results[name], value, "{name}: {}", stderr_of(&output));
    }
    // Sixty messages at a hundred per second.
    assert!(results["accept_per_s"].as_f64().unwrap() < 110.0, "{}", results["accept_per_s"]);
    assert_eq!((&results["backlog"], &results["idle_first_byte_p50_ms"]), (&json!(50), &Value::Null));
    assert!(output.status.success());
}

#[tokio::test]
async fn backlog_stays_queued_and_accept_only_sends_nothing() {
    let database = Database::empty();
    let arguments = ["--messages", "20", "--backlog", "700", "--database-url", &database.url];
    let results = figures(&run(bench(&arguments)).await);
    assert_eq!((&results["backlog"], &results["backlog_sent"], &results["lost"]), (&json!(700), &json!(0), &json!(0)));
    // The same messages wait in the second run.
    let arguments = ["--messages", "20", "--backlog", "700", "--accept-only", "--yes", "--database-url", &database.url];
    let results = figures(&run(bench(&arguments)).await);
    assert_eq!((&results["accepted"], &results["backlog"]), (&json!(20), &json!(700)));
    assert_eq!((&results["end_to_end_per_s"], &results["lost"]), (&Value::Null, &Value::Null));
    // Now other messages wait too.
    let refused = run(bench(&["--yes", "--database-url", &database.url])).await;
    assert!(stderr_of(&refused).contains("messages wait in this database"), "{}", stderr_of(&refused));
}

#[tokio::test]
async fn other_messages_are_not_sent_to_the_sink() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let api = Service::start(serve(&database.url, smtp.address(), &["--only", "api"])).await;
    Api::new(api.address.clone().unwrap(), key(&database.url).await).send(json!({})).await;
    let refused = run(bench(&["--yes", "--database-url", &database.url])).await;
    let stderr = stderr_of(&refused);
    assert!(!refused.status.success() && stderr.contains("messages wait in this database"), "{stderr}");
    assert!(api.terminate().await.success());
}

#[tokio::test]
async fn errors_are_one_line_and_have_a_hint() {
    for (arguments, expected) in [
        (&["--attachment", "29000000", "--size", "4000000"][..], "40 MiB"),
        (&["--bulk", "10", "--recipients", "2"], "each message of --bulk has one recipient"),
        (&["--dir", "/proc/none"], "choose another with --dir"),
        (&["--messages", "50000000", "--attachment", "20000000"], "MiB are free"),
        (&["--database-url", "postgres://u:secret@127.0.0.1:1/x"], "not available"),
    ] {
        let refused = run(bench(arguments)).await;
        let stderr = stderr_of(&refused);
        let lines: Vec<&str> = stderr.lines().skip_while(|line| !line.starts_with("error: ")).collect();
        assert!(
            (1..=2).contains(&lines.len()) && lines.iter().skip(1).all(|line| line.starts_with("hint: ")),
            "{stderr}"
        );
        assert!(lines.concat().contains(expected) && !stderr.contains("secret"), "{stderr}");
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    }
}

/// Starts a long run and waits until it is measuring.
async fn start_long_run(dir: &Path) -> (Child, BufReader<tokio::process::ChildStderr>) {
    let mut command = bench(&["--duration", "1h", "--rate", "20", "--dir", dir.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while line.trim() != "measuring" {
        line.clear();
        assert!(stderr.read_line(&mut line).await.unwrap() > 0, "it ended before it measured");
    }
    (child, stderr)
}

#[tokio::test]
async fn stopped_run_cleans_up() {
    let dir = directory();
    let (mut child, mut stderr) = start_long_run(dir.path()).await;
    signal(&child, "TERM").await;
    let mut rest = String::new();
    // Standard error ends once all processes that hold it have ended, the sink included.
    stderr.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("stopped before the end") && !child.wait().await.unwrap().success(), "{rest}");
    assert!(is_empty(dir.path()));
}

#[tokio::test]
async fn killed_run_leaves_nothing_behind() {
    let dir = directory();
    let (mut child, mut stderr) = start_long_run(dir.path()).await;
    child.kill().await.unwrap();
    stderr.read_to_end(&mut Vec::new()).await.unwrap();
    // Postgres and the directory are removed a moment later.
    let removed = async {
        while !is_empty(dir.path()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), removed).await.expect("an empty directory");
}
