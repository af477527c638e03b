//! The variables of the OpenTelemetry specification that decide whether and how traces are exported. The SDK reads the
//! others: the sampler, the resource, the endpoint and its headers.

use std::time::Duration;

use super::TraceSetupError;

/// The only supported protocol.
const PROTOCOL: &str = "http/protobuf";

/// Limits of the queue of ended spans, and of requests to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Maximum number of spans that wait. Further ones are dropped.
    pub queue: usize,
    /// Maximum number of spans in one request.
    pub batch: usize,
    /// How long a span waits for others.
    pub delay: Duration,
    /// Time limit of a request.
    pub timeout: Duration,
}

/// Returns the limits, or `None` if no traces are to be exported. An empty variable counts as unset.
pub(super) fn limits(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Limits>, TraceSetupError> {
    let variable = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let first = |names: [&str; 2]| names.into_iter().find_map(&variable);
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let has_endpoint = first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]).is_some();
    let is_wanted = match variable("OTEL_TRACES_EXPORTER").as_deref() {
        None => has_endpoint,
        Some("none") => false,
        Some("otlp") => true,
        Some(other) => return Err(TraceSetupError::Exporter(other.to_owned())),
    };
    if is_disabled || !is_wanted {
        return Ok(None);
    }
    match first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]) {
        Some(other) if other != PROTOCOL => return Err(TraceSetupError::Protocol(other)),
        _ => {}
    }
    let number = |names: [&str; 2], default: u64| first(names).and_then(|value| value.parse().ok()).unwrap_or(default);
    let bsp = |name: &'static str, default: u64| number([name, name], default);
    let size = |value: u64| usize::try_from(value.max(1)).unwrap_or(usize::MAX);
    let queue = size(bsp("OTEL_BSP_MAX_QUEUE_SIZE", 2_048).min(1 << 20));
    Ok(Some(Limits {
        queue,
        batch: size(bsp("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)).min(queue),
        delay: Duration::from_millis(bsp("OTEL_BSP_SCHEDULE_DELAY", 5_000)),
        timeout: Duration::from_millis(number(
            ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"],
            10_000,
        )),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Limits>, String> {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        limits(value).map_err(|error| error.to_string())
    }

    #[test]
    fn traces_are_off_unless_asked_for() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[("OTEL_SERVICE_NAME", "mail")],
            &[endpoint, ("OTEL_SDK_DISABLED", "true")],
            &[endpoint, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert_eq!(read(variables), Ok(None), "{variables:?}");
        }
        assert!(read(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().is_some());
        let limits = read(&[endpoint, ("OTEL_BSP_MAX_QUEUE_SIZE", "100")]).unwrap().expect("limits");
        assert_eq!((limits.queue, limits.batch, limits.timeout), (100, 100, Duration::from_secs(10)));
    }

    #[test]
    fn unsupported_values_are_errors() {
        let error = read(&[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap_err();
        assert!(error.contains("grpc") && error.contains("http/protobuf"), "{error}");
        assert!(read(&[("OTEL_TRACES_EXPORTER", "zipkin")]).unwrap_err().contains("zipkin"));
    }
}
