//! Errors on standard error: `error: …` in one line, and `hint: …` in the next if there is a fix.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use super::client::error::ClientError;
use crate::app::Hinted;
use crate::bench::BenchError;
use crate::config::ConfigErrors;
use crate::db::pool::session::SessionError;
use crate::db::schema::SchemaError;
use crate::dev::postgres::PostgresError;

/// Returns the exit code for an error: that of its kind for client commands, and otherwise 1.
pub(super) fn exit_code(error: &anyhow::Error) -> ExitCode {
    error.downcast_ref::<ClientError>().map_or(ExitCode::FAILURE, |error| error.kind().exit_code().into())
}

/// Formats an error as it is printed. Each problem of the configuration, and each fault of a request, is a separate
/// error.
pub(super) fn report(error: &anyhow::Error) -> String {
    let mut report = String::new();
    let lines = match error.downcast_ref::<ConfigErrors>() {
        Some(errors) => errors.problems().iter().map(ToString::to_string).collect(),
        None => match error.downcast_ref::<ClientError>() {
            Some(error) => error.lines(),
            None => vec![one_line(error.as_ref())],
        },
    };
    for line in lines {
        let _ = writeln!(report, "error: {line}");
    }
    if let Some(hint) = hint(error.as_ref()) {
        let _ = writeln!(report, "hint: {hint}");
    }
    report
}

/// Formats an error with its fix in one line, for a list of findings.
pub(super) fn with_fix(error: &(dyn Error + 'static)) -> String {
    let line = one_line(error);
    hint(error).map_or_else(|| line.clone(), |hint| format!("{line}: {hint}"))
}

/// Returns the hint for an error, if it has one.
fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    chain(error).find_map(|cause| {
        let bench = || cause.downcast_ref().and_then(BenchError::hint).map(str::to_owned);
        let hinted = cause.downcast_ref::<Hinted>().map(|hinted| hinted.hint().to_owned());
        let schema = || cause.downcast_ref().and_then(SchemaError::hint);
        let session = || cause.downcast_ref().and_then(SessionError::hint);
        let postgres = || cause.downcast_ref().and_then(PostgresError::hint);
        let client = || cause.downcast_ref().and_then(ClientError::hint);
        hinted.or_else(schema).or_else(session).or_else(postgres).or_else(bench).or_else(client)
    })
}

/// Formats an error and its causes as one line. A cause that the error text already contains is left out.
fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for cause in chain(error) {
        let text = without_source_line(&cause.to_string());
        if !line.contains(&text) {
            line = if line.is_empty() { text } else { format!("{line}: {text}") };
        }
    }
    line
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Removes line breaks, and what sqlx adds to errors of Postgres: its prefix, and the line number in Postgres's C source.
fn without_source_line(text: &str) -> String {
    let text = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let stripped = text.rsplit_once(" at line ").filter(|(_, number)| number.bytes().all(|b| b.is_ascii_digit()));
    stripped
        .map_or(text.as_str(), |(message, _)| message)
        .replace("error returned from database: ", "")
        .replace("error communicating with database: ", "")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::{Context as _, anyhow};

    use super::*;
    use crate::app::WithHint as _;
    use crate::config::Config;

    #[test]
    fn repeated_causes_and_source_lines_are_left_out() {
        let cause = anyhow!("relation \"messages\" already exists at line 1164");
        let error = Err::<(), _>(cause)
            .context("while executing migration 6: relation \"messages\" already exists at line 1164");
        let error = error.context("database postgres://db.test/mail").unwrap_err();
        assert_eq!(
            report(&error),
            "error: database postgres://db.test/mail: while executing migration 6: relation \"messages\" already exists\n"
        );
    }

    #[test]
    fn hint_is_a_separate_line() {
        let denied = std::io::Error::other("permission\ndenied");
        let error = Err::<(), _>(denied).context("cannot create x").with_hint("choose another directory with --dir");
        let error = error.context("a run").unwrap_err();
        assert_eq!(
            report(&error),
            "error: a run: cannot create x: permission denied\nhint: choose another directory with --dir\n"
        );
        let behind = anyhow::Error::new(SchemaError::Behind { missing: 2 }).context("database postgres://db.test/mail");
        assert_eq!(
            report(&behind),
            "error: database postgres://db.test/mail: the database schema is 2 migration(s) behind this postrider\n\
             hint: run `postrider migrate`, or start with --migrate\n"
        );
        assert!(
            with_fix(behind.as_ref())
                .ends_with("behind this postrider: run `postrider migrate`, or start with --migrate")
        );
    }

    #[test]
    fn each_problem_of_the_configuration_is_an_error() {
        let env = [("POSTRIDER_COLOUR", "red"), ("POSTRIDER_MX_PORT", "0")];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let errors = Config::load(Some(Path::new("/no/such.toml")), env).unwrap_err();
        assert_eq!(
            report(&errors.into()),
            "error: /no/such.toml: cannot be read: No such file or directory (os error 2)\n\
             error: POSTRIDER_COLOUR: unknown variable\n\
             error: mx_port: must be between 1 and 65535, is 0 (from POSTRIDER_MX_PORT)\n"
        );
    }
}
