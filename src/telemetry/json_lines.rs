//! Log lines as flat JSON objects: the fields of an event, and of the spans around it, are fields of the object. A field
//! of an inner span, or of the event, replaces one with the same name.

use std::fmt::{self, Debug};

use serde::Serializer as _;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats each event as one line. The fields of spans must be formatted as JSON.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let mut line = Line::default();
        line.set("timestamp", timestamp.into());
        line.set("level", metadata.level().as_str().into());
        line.set("target", metadata.target().into());
        if let Some(id) = super::worker_id() {
            line.set("worker_id", id.into());
        }
        for span in cx.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map(|fields| serde_json::from_str(&fields.fields));
            if let Some(Ok(fields)) = fields {
                let fields: Map<String, Value> = fields;
                fields.into_iter().for_each(|(name, value)| line.set(&name, value));
            }
        }
        event.record(&mut line);
        writeln!(writer, "{}", line.json().map_err(|_| fmt::Error)?)
    }
}

/// The fields of a line, in the order in which they are written.
#[derive(Default)]
struct Line(Vec<(String, Value)>);

impl Line {
    fn set(&mut self, name: &str, value: Value) {
        // Lines of libraries that use the `log` crate have their target and source in such fields.
        if let Some(field) = name.strip_prefix("log.") {
            if field == "target" {
                self.set("target", value);
            }
            return;
        }
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn json(&self) -> serde_json::Result<String> {
        let mut json = Vec::with_capacity(512);
        serde_json::Serializer::new(&mut json).collect_map(self.0.iter().map(|(name, value)| (name, value)))?;
        Ok(String::from_utf8_lossy(&json).into_owned())
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field.name(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::format::JsonFields;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn fields_of_spans_and_event_are_at_the_top() {
        let lines = logged(|| {
            let _request = tracing::info_span!("request", request_id = "req_1", code = 1).entered();
            let _attempt = tracing::info_span!("attempt", message_id = "msg_1").entered();
            tracing::info!(event = "webhook_created", code = 250, ok = true, "two\nlines");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        for (field, value) in [
            ("level", Value::from("INFO")),
            ("request_id", "req_1".into()),
            ("message_id", "msg_1".into()),
            ("event", "webhook_created".into()),
            ("code", 250.into()),
            ("ok", true.into()),
            ("message", "two\nlines".into()),
        ] {
            assert_eq!(line[field], value, "{field} of {line}");
        }
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z') && line["target"].is_string(), "{line}");
    }
}
