//! The file of an exported tenant: a line of JSON that says how to read the others, and then one record in each line,
//! encrypted with a key from the passphrase and written in base64. Each record is bound to the first line and to its own
//! number, and the last one says so: a line that was changed, moved or removed is noticed.

use std::collections::BTreeMap;
use std::io::{BufRead, Read as _, Write};

use anyhow::{anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::app::WithHint as _;
use crate::db::schema;
use crate::domain::id::TenantId;
use crate::domain::installation::keyring::{Keyring, Purpose};

/// The format's name.
const FORMAT: &str = "postrider-tenant";
/// The version of the format.
const VERSION: u64 = 1;
/// The maximum length of a line, in bytes.
const MAX_LINE: u64 = 256 * 1_024 * 1_024;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u64,
    /// The version of Postrider that wrote the file.
    postrider: String,
    /// The version of the schema, whose columns the rows have.
    schema: i64,
    /// The salt of the passphrase, in base64.
    salt: String,
}

/// A line after the first one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(super) enum Record {
    /// The first record.
    Start {
        tenant: TenantId,
        name: String,
        /// The number of the last event of the tenant, and that of its test tenant.
        feeds: BTreeMap<TenantId, i64>,
    },
    /// Rows of a table.
    Rows { table: String, rows: Vec<Value> },
    /// The last record: the number of rows of each table.
    End { rows: BTreeMap<String, u64> },
}

/// Writes a file.
#[derive(Debug)]
pub(super) struct Writer<W> {
    output: W,
    keyring: Keyring,
    header: String,
    line: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the first line.
    pub(super) fn new(mut output: W, passphrase: &str) -> anyhow::Result<Self> {
        let salt: [u8; 16] = rand::random();
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            postrider: env!("CARGO_PKG_VERSION").to_owned(),
            schema: schema::version(),
            salt: STANDARD.encode(salt),
        };
        let header = serde_json::to_string(&header)?;
        writeln!(output, "{header}")?;
        Ok(Self { output, keyring: Keyring::from_passphrase(passphrase, &salt), header, line: 1 })
    }

    /// Writes a record.
    pub(super) fn write(&mut self, record: &Record) -> anyhow::Result<()> {
        self.line += 1;
        let text = serde_json::to_vec(record)?;
        let encrypted = self.keyring.seal(Purpose::TenantFile, &context(&self.header, self.line), &text)?;
        writeln!(self.output, "{}", STANDARD.encode(encrypted))?;
        Ok(())
    }

    /// Returns the output with everything written to it.
    pub(super) fn finish(mut self) -> anyhow::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}

/// Reads a file.
#[derive(Debug)]
pub(super) struct Reader<R> {
    input: R,
    keyring: Keyring,
    header: String,
    line: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line, and checks that the file has the format and the schema of this version.
    pub(super) fn new(mut input: R, passphrase: &str) -> anyhow::Result<Self> {
        let line = read_line(&mut input)?.unwrap_or_default();
        let header = String::from_utf8_lossy(&line).into_owned();
        let format: Value = serde_json::from_str(&header).unwrap_or_default();
        if format.get("format").and_then(Value::as_str) != Some(FORMAT) {
            bail!("this is no file of `postrider tenant export`: its first line has no \"format\":\"{FORMAT}\"");
        }
        let version = format.get("version").and_then(Value::as_u64).unwrap_or_default();
        if version != VERSION {
            return Err(anyhow!(
                "the file has the `version` {version} of the format, and this version reads {VERSION}"
            ))
            .with_hint("use the same version of Postrider for both cells");
        }
        let read: Header = serde_json::from_value(format)
            .map_err(|error| anyhow!("the first line of the file is damaged: {error}"))?;
        if read.schema != schema::version() {
            let (theirs, ours) = (read.schema, schema::version());
            return Err(anyhow!(
                "Postrider {} wrote the file with the `schema` {theirs}, and this version has {ours}",
                read.postrider
            ))
            .with_hint("use the same version of Postrider for both cells, and export the tenant again");
        }
        let salt = STANDARD.decode(&read.salt).map_err(|_| anyhow!("`salt` in the first line is not base64"))?;
        Ok(Self { input, keyring: Keyring::from_passphrase(passphrase, &salt), header, line: 1 })
    }

    /// Reads the next record, which must exist.
    pub(super) fn read(&mut self) -> anyhow::Result<Record> {
        self.line += 1;
        let line = self.line;
        let Some(text) = read_line(&mut self.input)? else {
            return Err(anyhow!("the file ends at line {line}, before its last record"))
                .with_hint("copy it again, or export the tenant again");
        };
        let encrypted = STANDARD.decode(&text).ok();
        let context = context(&self.header, line);
        let record = encrypted.and_then(|text| self.keyring.open(Purpose::TenantFile, &context, &text).ok());
        match record {
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| anyhow!("line {line} of the file cannot be read: {error}")),
            None if line == 2 => Err(anyhow!("the passphrase is not that of the file, or the file is damaged")),
            None => Err(anyhow!("line {line} of the file is damaged"))
                .with_hint("copy it again, or export the tenant again"),
        }
    }
}

/// Reads a line without its end; `None` at the end of the file.
fn read_line(input: &mut impl BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(Some(line))
}

/// Returns what a record is bound to.
fn context(header: &str, line: u64) -> Vec<u8> {
    format!("{line} {header}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSPHRASE: &str = "correct horse battery";

    fn written() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), PASSPHRASE).unwrap();
        for table in ["streams", "keys"] {
            let rows = vec![serde_json::json!({"name": "a secret"})];
            writer.write(&Record::Rows { table: table.into(), rows }).unwrap();
        }
        writer.finish().unwrap()
    }

    /// Reads both records, and returns the error.
    fn error(file: &[u8], passphrase: &str) -> String {
        let read = Reader::new(file, passphrase).and_then(|mut reader| {
            reader.read()?;
            reader.read()
        });
        format!("{:#}", read.unwrap_err())
    }

    #[test]
    fn records_are_read_as_written() {
        let file = written();
        assert!(!String::from_utf8_lossy(&file).contains("a secret"));
        let mut reader = Reader::new(file.as_slice(), PASSPHRASE).unwrap();
        for expected in ["streams", "keys"] {
            let record = reader.read().unwrap();
            assert!(
                matches!(&record, Record::Rows { table, rows } if table == expected && rows.len() == 1),
                "{record:?}"
            );
        }
        assert!(reader.read().unwrap_err().to_string().contains("ends at line 4"));
    }

    #[test]
    fn changed_file_is_refused() {
        let file = String::from_utf8(written()).unwrap();
        assert!(error(file.as_bytes(), "another passphrase").contains("passphrase"));
        let lines: Vec<&str> = file.lines().collect();
        let swapped = [lines[0], lines[2], lines[1]].join("\n");
        assert!(error(swapped.as_bytes(), PASSPHRASE).contains("passphrase"));
        let cut = &file[..file.len() - 10];
        assert!(error(cut.as_bytes(), PASSPHRASE).contains("line 3 of the file is damaged"));
        let other = file.replacen("\"postrider\":\"", "\"postrider\":\"x", 1);
        assert!(error(other.as_bytes(), PASSPHRASE).contains("damaged"));
    }

    #[test]
    fn other_formats_are_refused() {
        let header = |version: u64, schema: i64| {
            serde_json::json!({"format": FORMAT, "version": version, "postrider": "9.9", "schema": schema, "salt": ""})
                .to_string()
        };
        let cases = [
            (String::new(), "format"),
            ("{}".into(), "format"),
            (header(2, schema::version()), "`version` 2"),
            (header(VERSION, -1), "`schema` -1"),
            (header(VERSION, schema::version()).replace("\"salt\":\"\"", "\"salt\":\"?\""), "`salt`"),
            (header(VERSION, schema::version()).replace("salt", "pepper"), "salt"),
        ];
        for (file, expected) in cases {
            let error = error(file.as_bytes(), PASSPHRASE);
            assert!(error.contains(expected), "{file}: {error}");
        }
    }
}
