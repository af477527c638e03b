//! Reads suppressions to import, record by record, from NDJSON, or from CSV with or without a header line. Both formats
//! have the fields of an export, so that an export can be imported unchanged.

pub mod csv_cell;
pub mod record_splitter;

use std::borrow::Cow;

use csv_core::ReadRecordResult;
use serde_json_borrow::Value;

use super::request::resources::suppression::{COLUMNS, line};
use super::request::{Context, Rejection, json};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::suppression::Suppression;
use record_splitter::{MAX_RECORD_BYTES, Record};

/// Format of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Ndjson,
    /// RFC 4180.
    Csv,
}

/// Reads records in order.
#[derive(Debug)]
pub struct Reader {
    format: Format,
    /// The columns of a CSV, once its first record has been read.
    columns: Option<Columns>,
}

/// The columns of a CSV.
#[derive(Debug)]
struct Columns {
    /// Names from [`COLUMNS`], in the order of the file.
    names: Vec<&'static str>,
    /// Minimum number of fields in a record. A shorter record is refused, because its missing values are unknown.
    min_fields: usize,
}

/// Result of reading one record.
#[derive(Debug)]
pub enum Read {
    /// A suppression.
    Entry(Suppression),
    /// The header line.
    Columns,
    /// A record that cannot be imported.
    Refused(Fault),
    /// A header line that cannot be read. Without it, the records that follow cannot be read either.
    Unreadable(Fault),
}

/// Maximum number of fields read from a record: one more than there are columns, so that an extra one is detected.
const MAX_FIELDS: usize = COLUMNS.len() + 1;

impl Reader {
    /// Creates a reader of records in this format.
    pub fn new(format: Format) -> Self {
        Self { format, columns: None }
    }

    /// Reads the next record.
    pub fn read(&mut self, record: &Record, context: &Context<'_>) -> Read {
        let read = match &record.bytes {
            None => {
                self.refuse_unreadable(fault("", Code::TooLong, format!("must have at most {MAX_RECORD_BYTES} bytes")))
            }
            Some(_) if record.is_unclosed => {
                self.refuse_unreadable(fault("", Code::InvalidValue, "a quote is never closed".into()))
            }
            Some(bytes) => match self.format {
                Format::Ndjson => entry(json::read(bytes, MAX_FIELDS + 1), context),
                Format::Csv => self.csv(bytes, context),
            },
        };
        match read {
            Read::Refused(fault) => Read::Refused(with_lines(record, fault)),
            Read::Unreadable(fault) => Read::Unreadable(with_lines(record, fault)),
            read => read,
        }
    }

    /// Refuses a record whose fields cannot be read. If it is the first record of a CSV, the columns are unknown, so
    /// none of the records that follow can be read either.
    fn refuse_unreadable(&self, fault: Fault) -> Read {
        if self.format == Format::Csv && self.columns.is_none() {
            Read::Unreadable(fault)
        } else {
            Read::Refused(fault)
        }
    }

    fn csv(&mut self, bytes: &[u8], context: &Context<'_>) -> Read {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return self.refuse_unreadable(fault("", Code::InvalidValue, "must be UTF-8".into()));
        };
        let fields = match fields(text) {
            Ok(fields) => fields,
            Err(fault) => return self.refuse_unreadable(fault),
        };
        let columns = match &self.columns {
            Some(columns) => columns,
            None => match columns(&fields) {
                Ok(Some(names)) => {
                    self.columns = Some(Columns { min_fields: names.len(), names });
                    return Read::Columns;
                }
                // Without a header line the columns are those of an export, starting with the first.
                Ok(None) => self.columns.insert(Columns { names: COLUMNS.to_vec(), min_fields: fields.len() }),
                Err(fault) => return Read::Unreadable(fault),
            },
        };
        let Columns { names, min_fields } = columns;
        if fields.len() > names.len() {
            let message = format!("has {}, but there are {} columns", field_count(fields.len()), names.len());
            return Read::Refused(fault("", Code::TooMany, message));
        }
        if fields.len() < *min_fields {
            let missing = names.get(fields.len()).copied().unwrap_or_default();
            let message = format!(
                "has {}, but the first line has {min_fields}: column `{missing}` is missing; leave absent values empty",
                field_count(fields.len())
            );
            return Read::Refused(fault(&format!("/{missing}"), Code::Required, message));
        }
        let object = names.iter().zip(fields).filter(|(_, field)| !field.is_empty());
        let object = object.map(|(name, field)| (*name, Value::Str(Cow::Owned(field)))).collect();
        entry(Ok(Value::Object(object)), context)
    }
}

fn field_count(fields: usize) -> String {
    if fields == 1 { "1 field".into() } else { format!("{fields} fields") }
}

/// If the record spans several lines, adds their numbers to the fault, because none of these lines was read.
fn with_lines(record: &Record, fault: Fault) -> Fault {
    let Record { line, last_line, .. } = record;
    if line == last_line {
        return fault;
    }
    let message =
        format!("{}; lines {line} to {last_line} were not read: a quote joins them into one record", fault.message);
    Fault { message, ..fault }
}

fn entry(value: Result<Value<'_>, Rejection>, context: &Context<'_>) -> Read {
    match value {
        Ok(value) => line(value, context).map_or_else(Read::Refused, Read::Entry),
        // The line number is left out, because the caller adds the line in the whole body.
        Err(Rejection::Malformed { column, message, .. }) => {
            Read::Refused(fault("", Code::InvalidValue, format!("{message} (column {column})")))
        }
        Err(invalid) => Read::Refused(fault("", Code::InvalidValue, invalid.to_string())),
    }
}

fn fault(pointer: &str, code: Code, message: String) -> Fault {
    Fault { pointer: pointer.to_owned(), code: code.as_str(), message }
}

/// Returns the columns that the first record names, or `None` if it is not a header line but an entry.
fn columns(fields: &[String]) -> Result<Option<Vec<&'static str>>, Fault> {
    let has_name = fields.iter().any(|field| field.trim().eq_ignore_ascii_case("address"));
    if !has_name && fields.iter().any(|field| field.contains('@')) {
        return Ok(None);
    }
    let column = |field: &String| {
        let field = field.trim().to_ascii_lowercase();
        COLUMNS.iter().copied().find(|name| *name == field).ok_or_else(|| {
            let message = format!("unknown column `{}`; use one of {}", field.escape_debug(), COLUMNS.join(", "));
            fault("", Code::UnknownField, message)
        })
    };
    let columns: Vec<&'static str> = fields.iter().map(column).collect::<Result<_, _>>()?;
    let duplicate =
        columns.iter().enumerate().find(|(n, name)| columns.iter().take(*n).any(|earlier| earlier == *name));
    if let Some((_, name)) = duplicate {
        return Err(fault("", Code::DuplicateField, format!("duplicate column `{name}`")));
    }
    if columns.contains(&"address") {
        return Ok(Some(columns));
    }
    Err(fault("", Code::Required, "the column `address` is required".into()))
}

/// Splits one record into its fields. A quote inside an unquoted field can join several lines into one record. Such a
/// record is refused as a whole, so that no line is lost silently.
fn fields(record: &str) -> Result<Vec<String>, Fault> {
    let too_many = || fault("", Code::TooMany, format!("must have at most {} fields", COLUMNS.len()));
    let (fields, is_whole) = split(record).ok_or_else(too_many)?;
    if is_whole {
        return Ok(fields);
    }
    let message = "a quote in a field that is not in quotes: put the field in quotes and double the quote";
    Err(fault("", Code::InvalidValue, message.into()))
}

/// Returns the fields of one record and whether they cover all of it, or `None` if there are too many.
fn split(record: &str) -> Option<(Vec<String>, bool)> {
    let (mut text, mut ends) = (vec![0; record.len() + 1], [0; MAX_FIELDS]);
    let mut reader = csv_core::Reader::new();
    let (result, mut read, written, count) = reader.read_record(record.as_bytes(), &mut text, &mut ends);
    let (result, count) = match result {
        // The end of the input ends the record.
        ReadRecordResult::InputEmpty => {
            let (result, more_read, _, more) =
                reader.read_record(&record.as_bytes()[read..], text.get_mut(written..)?, ends.get_mut(count..)?);
            read += more_read;
            (result, count + more)
        }
        result => (result, count),
    };
    if !matches!(result, ReadRecordResult::Record | ReadRecordResult::End) {
        return None;
    }
    let mut start = 0;
    let field = |end: &usize| {
        let field = text.get(start..*end).unwrap_or_default();
        start = *end;
        // UTF-8 cut at separators is still UTF-8.
        csv_cell::restore(String::from_utf8_lossy(field).into_owned())
    };
    Some((ends.get(..count)?.iter().map(field).collect(), read == record.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::request::Limits;

    fn read(reader: &mut Reader, text: &str) -> Read {
        let (limits, streams) = (Limits::default(), ["news".to_owned()]);
        let context = Context::new("2026-11-23T12:00:00Z".parse().unwrap(), &limits, &streams);
        let record = Record { line: 1, last_line: 1, bytes: Some(text.into()), is_unclosed: false };
        reader.read(&record, &context)
    }

    fn summary(read: Read) -> String {
        match read {
            Read::Entry(entry) => format!(
                "{} {} {} {}",
                entry.address,
                entry.stream.unwrap_or_default(),
                entry.reason.as_str(),
                entry.note.unwrap_or_default()
            ),
            Read::Columns => "columns".into(),
            Read::Refused(fault) => format!("refused {} {}", fault.pointer, fault.code),
            Read::Unreadable(fault) => format!("unreadable {}", fault.code),
        }
    }

    #[test]
    fn record_is_split_as_in_rfc_4180() {
        for (record, expected) in [
            ("a,b", vec!["a", "b"]),
            ("a,", vec!["a", ""]),
            (",", vec!["", ""]),
            ("\"a,b\",\"say \"\"hi\"\"\"", vec!["a,b", "say \"hi\""]),
            ("\"two\nlines\",ä", vec!["two\nlines", "ä"]),
            ("a", vec!["a"]),
        ] {
            assert_eq!(fields(record).unwrap(), expected, "{record}");
        }
        assert_eq!(fields(&",".repeat(MAX_FIELDS)).unwrap_err().code, Code::TooMany.as_str());
        assert_eq!(fields(&",".repeat(MAX_FIELDS - 1)).unwrap().len(), MAX_FIELDS);
    }

    #[test]
    fn columns_come_from_the_header_or_the_export_order() {
        let mut named = Reader::new(Format::Csv);
        assert_eq!(summary(read(&mut named, "Reason, address,note")), "columns");
        assert_eq!(summary(read(&mut named, "complaint,Ann@b.test,\"a, b\"")), "ann@b.test  complaint a, b");
        assert_eq!(summary(read(&mut named, ",ann@b.test,")), "ann@b.test  manual ");
        assert_eq!(summary(read(&mut named, ",ann@b.test")), "refused /note required");
        assert_eq!(summary(read(&mut named, "complaint,ann@b.test,x,y")), "refused  too_many");
        assert_eq!(summary(read(&mut named, "rude,ann@b.test,")), "refused /reason invalid_value");
        let mut bare = Reader::new(Format::Csv);
        assert_eq!(summary(read(&mut bare, "ann@b.test,news,unsubscribe")), "ann@b.test news unsubscribe ");
        assert_eq!(summary(read(&mut bare, "address,,")), "refused /address invalid_address");
        assert_eq!(summary(read(&mut bare, "bo@b.test,,,a note")), "bo@b.test  manual a note");
        assert_eq!(summary(read(&mut bare, "bo@b.test")), "refused /stream required");
        for (names, code) in [
            ("address,colour", "unknown_field"),
            ("reason", "required"),
            ("address,address", "duplicate_field"),
            ("address,x@y", "unknown_field"),
            ("x@y,Address", "unknown_field"),
        ] {
            assert_eq!(summary(read(&mut Reader::new(Format::Csv), names)), format!("unreadable {code}"), "{names}");
        }
    }

    #[test]
    fn each_ndjson_line_is_an_entry() {
        let mut reader = Reader::new(Format::Ndjson);
        assert_eq!(
            summary(read(&mut reader, r#"{"address": "ann@b.test", "reason": "complaint"}"#)),
            "ann@b.test  complaint "
        );
        for (line, expected) in [
            ("{\"address\": ", "refused  invalid_value"),
            ("[]", "refused  invalid_type"),
            (r#"{"email": "ann@b.test"}"#, "refused /email unknown_field"),
            (r#"{"address": "ann"}"#, "refused /address invalid_address"),
            (r#"{"address": "ann@b.test", "stream": "other"}"#, "refused /stream unknown_stream"),
        ] {
            assert_eq!(summary(read(&mut reader, line)), expected, "{line}");
        }
    }
}
