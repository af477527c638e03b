//! The body of a delivery: one event, or a batch of several.

use uuid::Uuid;

use crate::db::events::EventRow;
use crate::domain::event::Event;
use crate::domain::event::resend::Mapping;
use crate::domain::id::EndpointId;
use crate::domain::webhook::endpoint::PostFormat;

/// Maximum number of bytes of a body (Standard Webhooks 1.0, "Payload size").
const MAX_BODY_BYTES: usize = 20_000;
/// The JSON before and after the events of a batch. Its `type` distinguishes a batch from an event.
const BATCH: (&str, &str) = (r#"{"type":"webhook.batch","events":["#, "]}");

/// The subject of an event. Events about the same subject are posted one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// The event is not about a message.
    NoMessage,
    /// A message as a whole, with all of its recipients.
    Message(Uuid),
    /// A recipient of a message.
    Recipient(Uuid, Uuid),
}

/// An event to post.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub seq: i64,
    pub subject: Subject,
    json: String,
}

impl Item {
    pub fn new(row: EventRow, format: PostFormat, mapping: Mapping) -> Self {
        let subject = match (row.message_id, row.recipient_id) {
            (None, _) => Subject::NoMessage,
            (Some(message), None) => Subject::Message(message),
            (Some(message), Some(recipient)) => Subject::Recipient(message, recipient),
        };
        let max_event_bytes = MAX_BODY_BYTES - BATCH.0.len() - BATCH.1.len();
        let (seq, event) = (row.seq, Event::from(row));
        let json = match format {
            PostFormat::Postrider => event.to_json_within(max_event_bytes),
            PostFormat::Resend => mapping.payload(&event).to_string(),
        };
        Self { seq, subject, json }
    }
}

/// A delivery: one event or a batch, sent in one POST request per attempt.
#[derive(Debug)]
pub(super) struct Post {
    /// In the order of their `seq`.
    pub items: Vec<Item>,
    /// The number of attempts so far.
    pub attempts: i16,
}

impl Post {
    /// Creates a delivery of one event, without an attempt so far.
    pub fn new(item: Item) -> Self {
        Self { items: vec![item], attempts: 0 }
    }

    /// Returns the `seq` of its first event.
    pub fn seq(&self) -> i64 {
        self.items.first().map_or(0, |item| item.seq)
    }

    /// Returns the `seq` of each of its events.
    pub fn seqs(&self) -> Vec<i64> {
        self.items.iter().map(|item| item.seq).collect()
    }

    /// Appends the events of another delivery. Returns that delivery if either was attempted before, or if the events
    /// do not fit into one body or are more than `max_events`.
    pub fn join(&mut self, other: Self, max_events: usize) -> Result<(), Self> {
        let size = |post: &Self| post.items.iter().map(|item| item.json.len() + 1).sum::<usize>();
        let is_first_attempt = self.attempts == 0 && other.attempts == 0;
        let fits = self.items.len() + other.items.len() <= max_events
            && size(self) + size(&other) + BATCH.0.len() + BATCH.1.len() <= MAX_BODY_BYTES;
        if !is_first_attempt || !fits {
            return Err(other);
        }
        self.items.extend(other.items);
        Ok(())
    }

    /// Returns the `webhook-id`, which is the same for every attempt.
    pub fn webhook_id(&self, endpoint: EndpointId) -> String {
        endpoint.webhook_id(self.seq(), self.items.len())
    }

    /// Returns the event itself, or a batch (even of one event) for an endpoint that receives batches.
    pub fn body(&self, is_batch: bool) -> String {
        let events: Vec<&str> = self.items.iter().map(|item| item.json.as_str()).collect();
        if is_batch || events.len() != 1 {
            format!("{}{}{}", BATCH.0, events.join(","), BATCH.1)
        } else {
            events.concat()
        }
    }
}

#[cfg(test)]
impl Post {
    /// Creates a delivery about a subject, with a body of this length.
    pub fn about(seq: i64, subject: Subject, length: usize) -> Self {
        Self::new(Item { seq, subject, json: "1".repeat(length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_is_json_and_has_its_own_id() {
        let mut post = Post::about(7, Subject::NoMessage, 1);
        let endpoint = EndpointId(Uuid::nil());
        let single = post.webhook_id(endpoint);
        assert_eq!((single.as_str(), post.body(false).as_str()), ("evt_00000000000000000000000000000000_7", "1"));
        assert_eq!(post.body(true), r#"{"type":"webhook.batch","events":[1]}"#);
        post.join(Post::about(9, Subject::NoMessage, 2), 100).unwrap();
        assert_eq!(post.webhook_id(endpoint), single + "_2");
        assert_eq!(post.body(true), r#"{"type":"webhook.batch","events":[1,11]}"#);
        assert_eq!(post.seqs(), [7, 9]);
    }

    #[test]
    fn batch_has_no_more_events_and_bytes_than_allowed() {
        let mut post = Post::about(1, Subject::NoMessage, 10);
        post.join(Post::about(2, Subject::NoMessage, 10), 2).unwrap();
        assert!(post.join(Post::about(3, Subject::NoMessage, 10), 2).is_err());
        let mut post = Post::about(1, Subject::NoMessage, 10_000);
        assert!(post.join(Post::about(2, Subject::NoMessage, 10_000), 100).is_err());
        post.join(Post::about(2, Subject::NoMessage, 9_900), 100).unwrap();
        assert!(post.body(true).len() <= MAX_BODY_BYTES);
        let mut retry = Post { attempts: 1, ..Post::about(1, Subject::NoMessage, 1) };
        assert!(retry.join(Post::about(2, Subject::NoMessage, 1), 100).is_err(), "a retry repeats the same events");
    }
}
