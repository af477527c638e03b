//! The registry of this process's metrics, and the three kinds of instruments.

use std::sync::LazyLock;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};

/// Upper bounds in seconds of the buckets of durations: from a cached lookup to a slow server's reply.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0];
/// Upper bounds in seconds of the buckets of waits, which can take hours.
const WAIT_SECONDS: [f64; 10] = [0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0];
/// Upper bounds of the buckets of group sizes.
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

static RECORDER: LazyLock<PrometheusRecorder> = LazyLock::new(|| {
    // Fails only for an empty list of buckets.
    builder().unwrap_or_default().build_recorder()
});

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let matcher = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(matcher(super::QUEUE_WAIT), &WAIT_SECONDS)?
        .set_buckets_for_metric(matcher(super::GROUP_SIZE), &SIZES)?
        .set_buckets(&SECONDS)
}

/// A kind of metric.
pub trait Instrument: Sized {
    /// Whether it counts up from zero.
    const IS_COUNTER: bool = false;

    /// Sets the description of a metric.
    fn describe(name: &'static str, help: &'static str);

    /// Registers a series.
    fn register(name: &'static str, labels: Vec<Label>) -> Self;
}

impl Instrument for Counter {
    const IS_COUNTER: bool = true;

    fn describe(name: &'static str, help: &'static str) {
        RECORDER.describe_counter(name.into(), None, help.into());
    }

    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        let counter = RECORDER.register_counter(&Key::from_parts(name, labels), &METADATA);
        // A counter is exported from its registration on, so that its first increment is seen as one.
        counter.increment(0);
        counter
    }
}

impl Instrument for Gauge {
    fn describe(name: &'static str, help: &'static str) {
        RECORDER.describe_gauge(name.into(), None, help.into());
    }

    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        RECORDER.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }
}

impl Instrument for Histogram {
    fn describe(name: &'static str, help: &'static str) {
        RECORDER.describe_histogram(name.into(), None, help.into());
    }

    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        RECORDER.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }
}

/// Defines a struct of metrics: each with its description, its type and its name. A metric with labels has the values of
/// the series that is exported from the start.
macro_rules! instruments {
    (
        #[doc = $about:literal]
        pub struct $type:ident {
            $(#[doc = $help:literal] $field:ident: $kind:ty = $name:expr $(, $first:expr)?;)+
        }
    ) => {
        #[doc = $about]
        #[derive(Debug)]
        pub struct $type {
            $(#[doc = $help] pub $field: $kind,)+
        }

        impl $type {
            fn new() -> Self {
                Self { $($field: $crate::metrics::registry::instruments!(@ $name, $help $(, $first)?),)+ }
            }
        }
    };
    (@ $name:expr, $help:expr) => { $crate::metrics::registry::single($name, $help.trim_ascii()) };
    (@ $name:expr, $help:expr, $first:expr) => {
        $crate::metrics::family::Family::new($name, $help.trim_ascii(), $first)
    };
}

pub(super) use instruments;

/// Describes and registers a metric without labels.
pub(super) fn single<I: Instrument>(name: &'static str, help: &'static str) -> I {
    I::describe(name, help);
    I::register(name, Vec::new())
}

/// Returns all metrics in the text format of Prometheus.
pub(super) fn render() -> String {
    RECORDER.handle().render()
}

/// Adds the values recorded since the last call to the histograms. Until then they are kept one by one.
pub(super) fn run_upkeep() {
    RECORDER.handle().run_upkeep();
}
