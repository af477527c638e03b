//! Waits for conditions that no signal announces. Tests must not wait for them in any other way.

use std::time::{Duration, Instant};

/// Time between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Checks a condition until it holds. Panics with the error of the last check if the time limit passes.
pub async fn until<S: std::fmt::Display>(label: &str, limit: Duration, mut check: impl AsyncFnMut() -> Result<(), S>) {
    let started = Instant::now();
    while let Err(seen) = check().await {
        assert!(started.elapsed() < limit, "{label}: still {seen} after {limit:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
