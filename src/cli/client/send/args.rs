//! The options of `postrider send`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::client::api::target::Target;
use crate::config;

/// Maximum of `--wait`.
const MAX_WAIT: Duration = Duration::from_hours(7 * 24);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Sender: `a@b` or `Name <a@b>`; a template may have one
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<String>,
    /// Recipient; may be repeated, like --cc, --bcc and --reply-to
    #[arg(long, value_name = "ADDRESS")]
    pub to: Vec<String>,
    /// Recipient in Cc
    #[arg(long, value_name = "ADDRESS")]
    pub cc: Vec<String>,
    /// Recipient in no header
    #[arg(long, value_name = "ADDRESS")]
    pub bcc: Vec<String>,
    /// Address for replies
    #[arg(long, value_name = "ADDRESS")]
    pub reply_to: Vec<String>,
    /// Subject; a template may have one
    #[arg(long)]
    pub subject: Option<String>,
    /// Plain text; without text, HTML, template and attachments, it is read from standard input
    #[arg(long, conflicts_with = "text_file")]
    pub text: Option<String>,
    /// File with the plain text; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub text_file: Option<PathBuf>,
    /// HTML
    #[arg(long, conflicts_with = "html_file")]
    pub html: Option<String>,
    /// File with the HTML
    #[arg(long, value_name = "FILE")]
    pub html_file: Option<PathBuf>,
    /// File to attach; may be repeated
    #[arg(long, value_name = "FILE")]
    pub attach: Vec<PathBuf>,
    /// Header; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// Tag, by which messages can be listed; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub tag: Vec<(String, String)>,
    /// Metadata, which events contain; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// Id or alias of a published template
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["text", "text_file", "html", "html_file"])]
    pub template: Option<String>,
    /// Text variable of the template; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = pair, requires = "template")]
    pub variables: Vec<(String, String)>,
    /// Variables of the template as a JSON object
    #[arg(long = "vars", value_name = "JSON", value_parser = object, requires = "template")]
    pub variables_json: Option<Map<String, Value>>,
    /// Stream [default: transactional]
    #[arg(long)]
    pub stream: Option<String>,
    /// Send at this time (RFC 3339), or after this duration (`2h`)
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Messages with the same key are sent only once
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Show what would be sent, and send nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Wait until every recipient has an end state, at most for this time
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2m", value_parser = duration)]
    pub wait: Option<Duration>,
    #[command(flatten)]
    pub target: Target,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("pass NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("pass 'NAME: VALUE'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("pass a JSON object: {error}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wait = config::duration(text).filter(|wait| *wait <= MAX_WAIT);
    wait.ok_or_else(|| "pass a duration such as 30s or 5m, up to 7d".to_owned())
}
