//! About thirty kinds of faults against three replicas under load, and a table with the result of each: nothing may be
//! lost or invented, and duplicates are allowed only when unavoidable.
//!
//! ```sh
//! cargo test --release --test it fault_table -- --ignored --nocapture
//! ```
//!
//! `POSTRIDER_FAULT_ROUNDS` (in per cent, default 100) scales the number of rounds, `POSTRIDER_FAULT` selects faults by
//! a part of their name.

mod acts;

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::support::fleet::{Fleet, Layout, RunResult};
use crate::support::own_postgres::OwnPostgres;

/// Injects the fault once.
type Act = for<'a> fn(&'a mut Fleet) -> BoxFuture<'a, ()>;

struct Fault {
    name: &'static str,
    /// Whether messages may arrive twice, because the fault can lose the outcome of an attempt that sent the message.
    copies: bool,
    rounds: usize,
    layout: Layout,
    act: Act,
}

macro_rules! fault {
    ($name:literal, $layout:ident, $copies:literal, $rounds:literal, $act:expr) => {
        Fault {
            name: $name,
            copies: $copies,
            rounds: $rounds,
            layout: Layout::$layout,
            act: |fleet| Box::pin($act(fleet)),
        }
    };
}

const FAULTS: &[Fault] = &[
    fault!("no fault", Whole, false, 5, acts::nothing),
    fault!("SIGKILL of a replica", Whole, true, 25, acts::kill_one),
    fault!("SIGKILL of an API", Split, false, 20, acts::kill_api),
    fault!("SIGKILL of the only worker", Split, true, 12, acts::kill_worker),
    fault!("SIGKILL of all replicas at once", Whole, true, 5, acts::kill_all),
    fault!("SIGTERM of a replica", Whole, false, 15, acts::terminate_one),
    fault!("SIGTERM, SIGKILL 100 ms later", Whole, true, 12, acts::terminate_and_kill),
    fault!("SIGSTOP for half a lease", Whole, false, 5, acts::freeze_shortly),
    fault!("SIGSTOP for two leases", Whole, true, 3, acts::freeze_long),
    fault!("pg_terminate_backend", Whole, false, 25, acts::terminate_backends),
    fault!("pg_cancel_backend", Whole, false, 20, acts::cancel_backends),
    fault!("SIGKILL of a backend", Whole, false, 8, acts::kill_backend),
    fault!("SIGKILL of Postgres", Whole, false, 6, acts::kill_postgres),
    fault!("restart of Postgres", Whole, false, 4, acts::restart_postgres),
    fault!("SIGKILL of Postgres and a replica", Whole, true, 4, acts::kill_postgres_and_replica),
    fault!("Postgres silent for two leases", Whole, false, 2, acts::silent_link),
    fault!("a silent connection, new ones work", Whole, false, 4, acts::silent_link_only),
    fault!("Postgres refuses connections", Whole, false, 3, acts::refused_link),
    fault!("Postgres closes connections", Whole, false, 15, acts::hang_up),
    fault!("Postgres read-only", Whole, false, 3, acts::read_only),
    fault!("Postgres out of connections", Whole, false, 3, acts::out_of_connections),
    // A replica that is cut off for longer than a lease, while others are not, is considered dead.
    fault!("Postgres has few connections", Whole, true, 3, acts::few_connections),
    fault!("event counters locked for 3 s", Whole, false, 3, acts::locked_counters),
    fault!("lanes locked for 3 s", Whole, false, 3, acts::locked_lanes),
    fault!("VACUUM FULL of the queue", Whole, false, 5, acts::vacuum_full),
    fault!("an old snapshot held", Whole, false, 3, acts::old_snapshot),
    fault!("SIGKILL of the sink", Whole, true, 25, acts::kill_sink),
    fault!("the sink replies 421", Whole, false, 3, acts::busy_sink),
    fault!("the sink replies 451", Whole, false, 3, acts::later_sink),
    fault!("the sink closes at the final dot", Whole, false, 3, acts::closing_sink),
    fault!("the sink accepts and closes", Whole, true, 3, acts::accepting_and_closing_sink),
    fault!("the sink needs 1 s for the final dot", Whole, false, 3, acts::slow_sink),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a quarter of an hour: cargo test --release --test it fault_table -- --ignored --nocapture"]
async fn no_message_is_lost_with_any_fault() {
    let (percent, wanted) = (number("POSTRIDER_FAULT_ROUNDS", 100), std::env::var("POSTRIDER_FAULT").ok());
    let (mut postgres, mut broken, mut kills) = (OwnPostgres::start().await, Vec::new(), 0);
    print_row(&["fault", "rounds", "copies expected", "accepted", "lost", "phantom", "copies", "held", "seconds"]);
    for (n, fault) in FAULTS.iter().enumerate() {
        if wanted.as_ref().is_some_and(|wanted| !fault.name.contains(wanted.as_str())) {
            continue;
        }
        let (started, rounds) = (Instant::now(), (fault.rounds * percent).div_ceil(100));
        let mut fleet = Fleet::start(postgres, &format!("fault_{n}"), fault.layout).await;
        fleet.wait_for_progress(RECOVERY_TIMEOUT).await;
        for _ in 0..rounds {
            (fault.act)(&mut fleet).await;
            fleet.wait_for_progress(RECOVERY_TIMEOUT).await;
        }
        kills += fleet.kills;
        let result;
        (postgres, result) = fleet.end().await;
        let copies = if fault.copies { "possible" } else { "0" }.to_owned();
        let counts = [result.accepted, result.lost, result.phantom, result.copies, result.held];
        let counts = counts.map(|count| count.to_string());
        let seconds = started.elapsed().as_secs().to_string();
        let cells = [vec![fault.name.to_owned(), rounds.to_string(), copies], counts.into(), vec![seconds]].concat();
        print_row(&cells);
        if !is_as_expected(fault, &result) {
            broken.push(fault.name);
        }
    }
    println!("{kills} processes killed");
    postgres.stop().await;
    assert!(broken.is_empty(), "not as expected: {broken:?}");
}

/// Prints a line of the table.
fn print_row(cells: &[impl AsRef<str>]) {
    let widths = [34, 6, 15, 8, 4, 7, 6, 4, 7];
    let cells: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{:<width$}", cell.as_ref())).collect();
    println!("| {} |", cells.join(" | "));
}

fn is_as_expected(fault: &Fault, result: &RunResult) -> bool {
    result.is_sound
        && result.accepted > 0
        && (result.lost, result.phantom, result.held) == (0, 0, 0)
        && (fault.copies || result.copies == 0)
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// How long to wait after each round until messages are accepted again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);
