//! Metrics of HTTP requests. Each route has its own series, which are registered when they are first used.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, Label};

use super::registry::Instrument as _;

/// The number of requests.
const REQUESTS: &str = "postrider_http_requests_total";
/// The time until the response's head.
const DURATION: &str = "postrider_http_request_duration_seconds";

/// Methods with their own series; others are counted together.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];
/// Statuses with their own series; others are counted together.
const STATUSES: [(u16, &str); 22] = [
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (204, "204"),
    (206, "206"),
    (301, "301"),
    (303, "303"),
    (304, "304"),
    (307, "307"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (413, "413"),
    (415, "415"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (503, "503"),
];
const OTHER: &str = "other";
/// Number of series of a route and method, with one for other statuses.
const SERIES: usize = STATUSES.len() + 1;

/// The series of one route and method.
type ByStatus = [OnceLock<Series>; SERIES];

/// The series of one route.
#[derive(Debug, Default)]
pub struct RouteSeries {
    by_method: [OnceLock<Box<ByStatus>>; METHODS.len()],
}

/// The series of one route, method and status.
#[derive(Debug)]
struct Series {
    requests: Counter,
    duration: Histogram,
}

impl RouteSeries {
    /// Counts a request. `route` is the route's template, such as `/v1/messages/{id}`, and always the same.
    pub fn record(&self, method: &str, route: &str, status: u16, took: Duration) {
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        let status = STATUSES.iter().position(|(known, _)| *known == status).unwrap_or(STATUSES.len());
        let series = self.by_method[method].get_or_init(|| Box::new([const { OnceLock::new() }; SERIES]));
        let series = series[status].get_or_init(|| Series::register(METHODS[method], route, status));
        series.requests.increment(1);
        series.duration.record(took);
    }
}

impl Series {
    fn register(method: &'static str, route: &str, status: usize) -> Self {
        let status = STATUSES.get(status).map_or(OTHER, |(_, word)| word);
        let labels = || {
            vec![
                Label::from_static_parts("method", method),
                Label::new("route", route.to_owned()),
                Label::from_static_parts("status", status),
            ]
        };
        Self { requests: Counter::register(REQUESTS, labels()), duration: Histogram::register(DURATION, labels()) }
    }
}

/// Describes the metrics.
pub(super) fn describe() {
    Counter::describe(REQUESTS, "HTTP requests by route and status.");
    Histogram::describe(DURATION, "Time from a request's head to the head of its response.");
}
