//! Suppressions to import, record by record: NDJSON, or CSV with or without a line of column names. Both have the fields of
//! an export, so that what was exported can be imported as it is.

use std::borrow::Cow;

use csv_core::ReadRecordResult;
use serde_json_borrow::Value;

use super::csv_cell;
use super::record_splitter::{LONGEST, Record};
use super::request::suppression::{COLUMNS, line};
use super::request::{Context, Rejection, json};
use crate::domain::fault::{Code, Fault};
use crate::domain::suppression::Suppression;

/// How the records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Ndjson,
    /// RFC 4180.
    Csv,
}

/// Reads records one after the other.
#[derive(Debug)]
pub struct Reader {
    format: Format,
    /// The columns of a CSV, once its first record was seen.
    columns: Option<Columns>,
}

/// The columns of a CSV.
#[derive(Debug)]
struct Columns {
    /// Those of [`COLUMNS`], in the order of the file.
    names: Vec<&'static str>,
    /// The fewest fields that a record may have: of one that has fewer, nobody knows what the missing ones were to say.
    least: usize,
}

/// What one record is.
#[derive(Debug)]
pub enum Read {
    /// An entry.
    Entry(Suppression),
    /// The names of the columns.
    Columns,
    /// Nothing that can be imported.
    Refused(Fault),
    /// Column names of which one is unknown: nothing that follows can be read.
    Unreadable(Fault),
}

/// The most fields that a record can have: one more than there are columns, to be told of.
const FIELDS: usize = COLUMNS.len() + 1;

impl Reader {
    /// For records of this format.
    pub fn new(format: Format) -> Self {
        Self { format, columns: None }
    }

    /// Reads the next record.
    pub fn read(&mut self, record: &Record, context: &Context<'_>) -> Read {
        let read = match &record.octets {
            None => self.unread(fault("", Code::TooLong, format!("longer than {LONGEST} bytes"))),
            Some(_) if record.is_unclosed => {
                self.unread(fault("", Code::InvalidValue, "a quote is never closed".into()))
            }
            Some(octets) => match self.format {
                Format::Ndjson => entry(json::read(octets, FIELDS + 1), context),
                Format::Csv => self.csv(octets, context),
            },
        };
        match read {
            Read::Refused(fault) => Read::Refused(spanning(record, fault)),
            Read::Unreadable(fault) => Read::Unreadable(spanning(record, fault)),
            read => read,
        }
    }

    /// A record whose fields are not known. Where it is the first of a CSV, neither are the columns of all that follow.
    fn unread(&self, fault: Fault) -> Read {
        if self.format == Format::Csv && self.columns.is_none() {
            Read::Unreadable(fault)
        } else {
            Read::Refused(fault)
        }
    }

    fn csv(&mut self, octets: &[u8], context: &Context<'_>) -> Read {
        let Ok(text) = std::str::from_utf8(octets) else {
            return self.unread(fault("", Code::InvalidValue, "not UTF-8".into()));
        };
        let fields = match fields(text) {
            Ok(fields) => fields,
            Err(fault) => return self.unread(fault),
        };
        let columns = match &self.columns {
            Some(columns) => columns,
            None => match columns(&fields) {
                Ok(Some(names)) => {
                    self.columns = Some(Columns { least: names.len(), names });
                    return Read::Columns;
                }
                // Without names the columns are those of an export, from the first on.
                Ok(None) => self.columns.insert(Columns { names: COLUMNS.to_vec(), least: fields.len() }),
                Err(fault) => return Read::Unreadable(fault),
            },
        };
        let Columns { names, least } = columns;
        if fields.len() > names.len() {
            let message = format!("{} where there are {} columns", counted(fields.len()), names.len());
            return Read::Refused(fault("", Code::TooMany, message));
        }
        if fields.len() < *least {
            let missing = names.get(fields.len()).copied().unwrap_or_default();
            let message = format!(
                "{} where the first line has {least}: the column `{missing}` is missing; an empty field says that there is no value",
                counted(fields.len())
            );
            return Read::Refused(fault(&format!("/{missing}"), Code::Required, message));
        }
        let object = names.iter().zip(fields).filter(|(_, field)| !field.is_empty());
        let object = object.map(|(name, field)| (*name, Value::Str(Cow::Owned(field)))).collect();
        entry(Ok(Value::Object(object)), context)
    }
}

fn counted(fields: usize) -> String {
    if fields == 1 { "1 field".into() } else { format!("{fields} fields") }
}

/// The fault, with all lines of a record that has several: none of them was read.
fn spanning(record: &Record, fault: Fault) -> Fault {
    let Record { line, last_line, .. } = record;
    if line == last_line {
        return fault;
    }
    let message =
        format!("{}; lines {line} to {last_line} were not read: a quote makes one record of them", fault.message);
    Fault { message, ..fault }
}

fn entry(value: Result<Value<'_>, Rejection>, context: &Context<'_>) -> Read {
    match value {
        Ok(value) => line(value, context).map_or_else(Read::Refused, Read::Entry),
        // The line is counted by the one that calls.
        Err(Rejection::Malformed { column, message, .. }) => {
            Read::Refused(fault("", Code::InvalidValue, format!("{message} (column {column})")))
        }
        Err(invalid @ Rejection::Invalid(_)) => Read::Refused(fault("", Code::InvalidValue, invalid.to_string())),
    }
}

fn fault(pointer: &str, code: Code, message: String) -> Fault {
    Fault { pointer: pointer.to_owned(), code: code.as_str(), message }
}

/// The columns that a first record names; `None` where it is an entry already.
fn columns(fields: &[String]) -> Result<Option<Vec<&'static str>>, Fault> {
    let has_name = fields.iter().any(|field| field.trim().eq_ignore_ascii_case("address"));
    if !has_name && fields.iter().any(|field| field.contains('@')) {
        return Ok(None);
    }
    let known = |field: &String| {
        let field = field.trim().to_ascii_lowercase();
        COLUMNS.iter().copied().find(|name| *name == field).ok_or_else(|| {
            let message = format!("unknown column `{}`; known are {}", field.escape_debug(), COLUMNS.join(", "));
            fault("", Code::UnknownField, message)
        })
    };
    let columns: Vec<&'static str> = fields.iter().map(known).collect::<Result<_, _>>()?;
    let twice = columns.iter().enumerate().find(|(n, name)| columns.iter().take(*n).any(|earlier| earlier == *name));
    if let Some((_, name)) = twice {
        return Err(fault("", Code::DuplicateField, format!("the column `{name}` stands there twice")));
    }
    if columns.contains(&"address") {
        return Ok(Some(columns));
    }
    Err(fault("", Code::Required, "there is no column `address`".into()))
}

/// The fields of one record. A quote inside of a field, which should have been in quotes itself, may make one record of
/// several lines: then nothing of it is read, so that no line is lost without a word.
fn fields(record: &str) -> Result<Vec<String>, Fault> {
    let too_many = || fault("", Code::TooMany, format!("more than {} fields", COLUMNS.len()));
    let (fields, is_whole) = split(record).ok_or_else(too_many)?;
    if is_whole {
        return Ok(fields);
    }
    let message = "a quote in a field that is not in quotes: put the field in quotes and double the quote";
    Err(fault("", Code::InvalidValue, message.into()))
}

/// The fields of one record, and whether they are all of it; `None` where there are too many.
fn split(record: &str) -> Option<(Vec<String>, bool)> {
    let (mut text, mut ends) = (vec![0; record.len() + 1], [0; FIELDS]);
    let mut reader = csv_core::Reader::new();
    let (result, mut read, written, count) = reader.read_record(record.as_bytes(), &mut text, &mut ends);
    let (result, count) = match result {
        // The end of the record is the end of what there is.
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
        // Cut at separators, what was UTF-8 is UTF-8.
        csv_cell::restored(String::from_utf8_lossy(field).into_owned())
    };
    Some((ends.get(..count)?.iter().map(field).collect(), read == record.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::request::Limits;

    fn read(reader: &mut Reader, text: &str) -> Read {
        let (limits, streams) = (Limits::default(), ["news".to_owned()]);
        let context = Context { now: "2026-11-23T12:00:00Z".parse().unwrap(), limits: &limits, streams: &streams };
        let record = Record { line: 1, last_line: 1, octets: Some(text.into()), is_unclosed: false };
        reader.read(&record, &context)
    }

    fn told(read: Read) -> String {
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
    fn a_record_is_taken_apart_as_rfc_4180_says() {
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
        assert_eq!(fields(&",".repeat(FIELDS)).unwrap_err().code, Code::TooMany.as_str());
        assert_eq!(fields(&",".repeat(FIELDS - 1)).unwrap().len(), FIELDS);
    }

    #[test]
    fn columns_are_named_or_those_of_an_export() {
        let mut named = Reader::new(Format::Csv);
        assert_eq!(told(read(&mut named, "Reason, address,note")), "columns");
        assert_eq!(told(read(&mut named, "complaint,Ann@b.test,\"a, b\"")), "ann@b.test  complaint a, b");
        assert_eq!(told(read(&mut named, ",ann@b.test,")), "ann@b.test  manual ");
        assert_eq!(told(read(&mut named, ",ann@b.test")), "refused /note required");
        assert_eq!(told(read(&mut named, "complaint,ann@b.test,x,y")), "refused  too_many");
        assert_eq!(told(read(&mut named, "rude,ann@b.test,")), "refused /reason invalid_value");
        let mut bare = Reader::new(Format::Csv);
        assert_eq!(told(read(&mut bare, "ann@b.test,news,unsubscribe")), "ann@b.test news unsubscribe ");
        assert_eq!(told(read(&mut bare, "address,,")), "refused /address invalid_address");
        assert_eq!(told(read(&mut bare, "bo@b.test,,,a note")), "bo@b.test  manual a note");
        assert_eq!(told(read(&mut bare, "bo@b.test")), "refused /stream required");
        for (names, code) in [
            ("address,colour", "unknown_field"),
            ("reason", "required"),
            ("address,address", "duplicate_field"),
            ("address,x@y", "unknown_field"),
            ("x@y,Address", "unknown_field"),
        ] {
            assert_eq!(told(read(&mut Reader::new(Format::Csv), names)), format!("unreadable {code}"), "{names}");
        }
    }

    #[test]
    fn a_line_of_json_is_an_entry() {
        let mut reader = Reader::new(Format::Ndjson);
        assert_eq!(
            told(read(&mut reader, r#"{"address": "ann@b.test", "reason": "complaint"}"#)),
            "ann@b.test  complaint "
        );
        for (line, expected) in [
            ("{\"address\": ", "refused  invalid_value"),
            ("[]", "refused  invalid_type"),
            (r#"{"email": "ann@b.test"}"#, "refused /email unknown_field"),
            (r#"{"address": "ann"}"#, "refused /address invalid_address"),
            (r#"{"address": "ann@b.test", "stream": "other"}"#, "refused /stream unknown_stream"),
        ] {
            assert_eq!(told(read(&mut reader, line)), expected, "{line}");
        }
    }
}
