//! The SMTP conversations of a message's attempts, as far as they were kept.

use std::collections::HashMap;

use serde::Deserialize;

use super::Event;
use crate::ui::call::Page;
use crate::ui::error::UiError;
use crate::ui::session::Visitor;

/// Attempts whose conversations are shown.
const ATTEMPTS: u32 = 100;

#[derive(Debug, Deserialize)]
struct Attempt {
    /// The `seq` of the attempt's event.
    seq: i64,
    conversation: Option<Conversation>,
}

/// What was sent and received in an attempt.
#[derive(Debug, Deserialize)]
pub(super) struct Conversation {
    pub lines: Vec<Line>,
    /// The number of lines that were left out, and of those before them.
    pub omitted: u32,
    pub omitted_after: usize,
}

#[derive(Debug, Deserialize)]
pub(super) struct Line {
    pub at_ms: u32,
    pub direction: String,
    pub text: String,
}

impl Line {
    /// Returns the CSS class.
    pub(super) fn class(&self) -> &'static str {
        match self.direction.as_str() {
            ">" => "line-sent",
            "<" => "line-received",
            _ => "line-note",
        }
    }
}

/// Adds to each event the conversation of the attempt that led to it. `path` is the path of the message in the API.
pub(super) async fn add_conversations(visitor: &Visitor, path: &str, events: &mut [Event]) -> Result<(), UiError> {
    let attempts: Page<Attempt> = visitor.get(&format!("{path}/attempts?limit={ATTEMPTS}")).await?;
    let mut conversations: HashMap<i64, Conversation> = attempts
        .data
        .into_iter()
        .filter_map(|attempt| attempt.conversation.map(|conversation| (attempt.seq, conversation)))
        .collect();
    for event in events {
        event.conversation = conversations.remove(&event.seq);
    }
    Ok(())
}
