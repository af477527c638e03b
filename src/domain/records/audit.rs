//! The audit log: what may be recorded of an object, and the words of a record.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::domain::words::words;

words! {
    /// How a change was requested.
    pub enum AuditSource as "AuditSource" {
        /// By the HTTP API.
        Api = "api",
        /// By the API that is compatible with Resend's.
        Resend = "resend",
        /// By a command.
        Cli = "cli",
        /// In the dashboard.
        Dashboard = "dashboard",
    }
}

words! {
    /// What became of a request for a change.
    pub enum AuditResult as "AuditResult" {
        /// The request is in progress, or its process died, or its client disconnected. The change may have been made.
        Started = "started",
        /// The change was made.
        Done = "done",
        /// The request was refused with a 4xx status. Nothing was changed, except by the first lines of an import.
        Refused = "refused",
        /// The request failed with a 5xx status. The change may have been made.
        Failed = "failed",
    }
}

impl AuditResult {
    /// Returns the result of a request with this HTTP status.
    pub fn from_status(status: u16) -> Self {
        match status {
            ..400 => Self::Done,
            400..500 => Self::Refused,
            500.. => Self::Failed,
        }
    }
}

/// Maximum size of a recorded object, in bytes of JSON.
pub const MAX_STATE: usize = 8 << 10;
/// Maximum length of each text of an object that is too large otherwise, in characters.
const MAX_TEXT: usize = 200;
/// Fields that may contain a secret, at any depth.
const SECRET_FIELDS: [&str; 6] = ["secret", "signing_secret", "token", "password", "hash", "authorization"];
/// The beginnings of secrets that Postrider creates: API keys and the secrets of webhook endpoints.
const SECRET_PREFIXES: [&str; 3] = ["pr_live_", "pr_test_", "whsec_"];
const HIDDEN: &str = "[hidden]";

/// Returns what is recorded of an object: without secrets, and at most [`MAX_STATE`] bytes. Handlers do not pass secrets;
/// this is a second barrier.
pub fn recordable(mut object: Value) -> Value {
    hide(&mut object);
    let size = object.to_string().len();
    if size <= MAX_STATE {
        return object;
    }
    cut(&mut object);
    if object.to_string().len() <= MAX_STATE { object } else { json!({"omitted": "too large", "bytes": size}) }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if SECRET_FIELDS.contains(&name.as_str()) && !value.is_null() {
                    *value = HIDDEN.into();
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::String(text) => {
            if SECRET_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
                HIDDEN.clone_into(text);
            } else if text.contains("://") {
                *text = without_credentials(text);
            } else if text.contains('\0') {
                // Postgres cannot store NUL.
                *text = text.replace('\0', "");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns a URL without user name, password, query and fragment, which may contain secrets. Another text with `://`, such
/// as a template, is returned unchanged.
fn without_credentials(text: &str) -> String {
    let is_url = !text.contains(char::is_whitespace) && (text.starts_with("http://") || text.starts_with("https://"));
    let Some((scheme, rest)) = text.split_once("://").filter(|_| is_url) else { return text.replace('\0', "") };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match path.split_once(['?', '#']) {
        Some((path, _)) => format!("{scheme}://{host}{path}?{HIDDEN}"),
        None => format!("{scheme}://{host}{path}"),
    }
}

/// Shortens long texts, such as the bodies of a template.
fn cut(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(cut),
        Value::Array(items) => items.iter_mut().for_each(cut),
        Value::String(text) => {
            let bytes = text.len();
            if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
                text.truncate(end);
                let _ = write!(text, "… ({bytes} bytes)");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_hidden_at_any_depth() {
        let object = json!({"name": "shop", "secret": "s3cret", "keys": [{"token": "t0ken", "value": "pr_live_abc"}],
            "text": "whsec_abc", "password": null, "url": "https://user:s3cret@example.test/hooks?token=t0ken#a"});
        let recorded = recordable(object);
        assert_eq!((&recorded["name"], &recorded["password"]), (&json!("shop"), &Value::Null));
        assert_eq!(recorded["url"], "https://example.test/hooks?[hidden]");
        let text = recorded.to_string();
        for secret in ["s3cret", "t0ken", "pr_live_", "whsec_"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }

    #[test]
    fn long_texts_are_cut_only_if_the_object_is_too_large() {
        let short = json!({"html": "x".repeat(5_000)});
        assert_eq!(recordable(short.clone()), short);
        let recorded = recordable(json!({"name": "a", "html": "ä".repeat(5_000)}));
        assert_eq!(recorded, json!({"name": "a", "html": format!("{}… (10000 bytes)", "ä".repeat(200))}));
        let list = recordable(json!(vec!["a".repeat(100); 200]));
        assert_eq!(list["omitted"], "too large");
    }

    #[test]
    fn result_follows_from_the_status() {
        for (status, result) in [(200, "done"), (204, "done"), (404, "refused"), (422, "refused"), (503, "failed")] {
            assert_eq!(AuditResult::from_status(status).as_str(), result);
        }
    }

    proptest! {
        #[test]
        fn recorded_object_has_a_bounded_size(texts in prop::collection::vec(".{0,400}", 0..80)) {
            let recorded = recordable(json!({"list": texts}));
            prop_assert!(recorded.to_string().len() <= MAX_STATE);
        }
    }
}
