//! What is posted: one event, or several in a batch.

use uuid::Uuid;

use crate::db::events::EventRow;
use crate::domain::event::Event;
use crate::domain::id::EndpointId;

/// The longest body, in octets (Standard Webhooks 1.0, "Payload size").
const LIMIT: usize = 20_000;
/// Around the events of a batch, whose `type` tells it from an event.
const BATCH: (&str, &str) = (r#"{"type":"webhook.batch","events":["#, "]}");

/// What an event is about: those about the same are posted one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// No mail.
    Nothing,
    /// A message as a whole, all its recipients included.
    Message(Uuid),
    /// A recipient of a message.
    Recipient(Uuid, Uuid),
}

/// An event that waits.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub seq: i64,
    pub subject: Subject,
    json: String,
}

impl From<EventRow> for Item {
    fn from(row: EventRow) -> Self {
        let subject = match (row.message_id, row.recipient_id) {
            (None, _) => Subject::Nothing,
            (Some(message), None) => Subject::Message(message),
            (Some(message), Some(recipient)) => Subject::Recipient(message, recipient),
        };
        let room = LIMIT - BATCH.0.len() - BATCH.1.len();
        Self { seq: row.seq, subject, json: Event::from(row).fitted(room) }
    }
}

/// One post: at least one event.
#[derive(Debug)]
pub(super) struct Post {
    /// In the order of their numbers.
    pub items: Vec<Item>,
    /// Tries so far.
    pub tries: i16,
}

impl Post {
    /// An event for the first time.
    pub fn fresh(item: Item) -> Self {
        Self { items: vec![item], tries: 0 }
    }

    /// The number of its first event.
    pub fn seq(&self) -> i64 {
        self.items.first().map_or(0, |item| item.seq)
    }

    /// All its events.
    pub fn seqs(&self) -> Vec<i64> {
        self.items.iter().map(|item| item.seq).collect()
    }

    /// Takes the events of another, if all fit into one post of at most `most`.
    pub fn join(&mut self, other: Self, most: usize) -> Result<(), Self> {
        let size = |post: &Self| post.items.iter().map(|item| item.json.len() + 1).sum::<usize>();
        let is_first_try = self.tries == 0 && other.tries == 0;
        let fits = self.items.len() + other.items.len() <= most
            && size(self) + size(&other) + BATCH.0.len() + BATCH.1.len() <= LIMIT;
        if !is_first_try || !fits {
            return Err(other);
        }
        self.items.extend(other.items);
        Ok(())
    }

    /// `webhook-id`: the same on every try.
    pub fn webhook_id(&self, endpoint: EndpointId) -> String {
        endpoint.webhook_id(self.seq(), self.items.len())
    }

    /// The event itself, or a batch for an endpoint that takes batches, be it of one.
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
    /// An event about this, with a text of this length.
    pub fn about(seq: i64, subject: Subject, length: usize) -> Self {
        Self::fresh(Item { seq, subject, json: "1".repeat(length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_json_and_has_an_id_of_its_own() {
        let mut post = Post::about(7, Subject::Nothing, 1);
        let endpoint = EndpointId(Uuid::nil());
        let single = post.webhook_id(endpoint);
        assert_eq!((single.as_str(), post.body(false).as_str()), ("evt_00000000000000000000000000000000_7", "1"));
        assert_eq!(post.body(true), r#"{"type":"webhook.batch","events":[1]}"#);
        post.join(Post::about(9, Subject::Nothing, 2), 100).unwrap();
        assert_eq!(post.webhook_id(endpoint), single + "_2");
        assert_eq!(post.body(true), r#"{"type":"webhook.batch","events":[1,11]}"#);
        assert_eq!(post.seqs(), [7, 9]);
    }

    #[test]
    fn a_batch_has_no_more_events_and_no_more_octets_than_allowed() {
        let mut post = Post::about(1, Subject::Nothing, 10);
        post.join(Post::about(2, Subject::Nothing, 10), 2).unwrap();
        assert!(post.join(Post::about(3, Subject::Nothing, 10), 2).is_err());
        let mut post = Post::about(1, Subject::Nothing, 10_000);
        assert!(post.join(Post::about(2, Subject::Nothing, 10_000), 100).is_err());
        post.join(Post::about(2, Subject::Nothing, 9_900), 100).unwrap();
        assert!(post.body(true).len() <= LIMIT);
        let mut retry = Post { tries: 1, ..Post::about(1, Subject::Nothing, 1) };
        assert!(retry.join(Post::about(2, Subject::Nothing, 1), 100).is_err(), "a retry is the same post");
    }
}
