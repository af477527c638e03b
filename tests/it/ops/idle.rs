//! What a process without work asks the database.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::metrics_pages::{metrics, serve_with_metrics};
use crate::support::postgres::Database;
use crate::support::process::Service;
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// Time limit of a wait for polls.
const LIMIT: Duration = Duration::from_mins(1);
/// The statement that polls for all tasks.
const POLL: &str = "background_work.due";
/// The statements by which each task leases or claims its work.
const LEASE_STATEMENTS: [&str; 6] =
    ["sql_inbox.claim", "sql_inbox.has_ready", "bulks.lease", "relays.claim", "actions.lease", "erasures.lease"];

/// Returns how often the process has run each statement, once it has polled this number of times.
async fn counts(base: &str, polls: u64) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    until("there are too few polls", LIMIT, async || {
        let page = metrics(base).await;
        let counted = |line: &str| {
            let (name, count) =
                line.strip_prefix("postrider_db_statement_seconds_count{name=\"")?.split_once("\"} ")?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        counts = page.lines().filter_map(counted).collect();
        let seen = counts.get(POLL).copied().unwrap_or(0);
        if seen >= polls { Ok(()) } else { Err(seen) }
    })
    .await;
    counts
}

#[tokio::test]
async fn idle_process_polls_for_all_work_with_one_statement() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve_with_metrics(&database.url, smtp.address(), &["--only", "api"])).await;
    let base = service.address.clone().unwrap();
    // Each task polls once when it starts.
    let first = counts(&base, 2).await;
    let started = Instant::now();
    let last = counts(&base, first[POLL] + 5).await;
    let took = started.elapsed();
    for name in LEASE_STATEMENTS {
        assert_eq!(first.get(name), last.get(name), "{name}");
    }
    let polls = last[POLL] - first[POLL];
    assert!(Duration::from_secs(polls) <= took + Duration::from_secs(1), "{polls} polls in {took:?}");
    assert!(["bulks.lease", "relays.claim"].iter().all(|name| last.contains_key(*name)), "{last:?}");
    assert!(service.terminate().await.success());
}
