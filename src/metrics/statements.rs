//! The durations of database statements by their names, which are constants of the program.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Histogram, Label};
use parking_lot::RwLock;

use super::registry::Instrument as _;

const DURATION: &str = "postrider_db_statement_seconds";

static SERIES: LazyLock<RwLock<HashMap<&'static str, Histogram>>> = LazyLock::new(|| {
    Histogram::describe(DURATION, "Time of a statement or transaction, with the wait for a connection.");
    RwLock::default()
});

/// Records the duration of a statement or transaction.
pub fn record(name: &'static str, took: Duration) {
    if let Some(series) = SERIES.read().get(name) {
        return series.record(took);
    }
    let register = || Histogram::register(DURATION, vec![Label::from_static_parts("name", name)]);
    SERIES.write().entry(name).or_insert_with(register).record(took);
}
