//! Parses metadata: strings stored with a message, returned in its status and events, and never sent.

use serde_json::{Map, Value};

use crate::accept::request::json::walk::{Node, one_line};
use crate::domain::api::fault::{Code, Faults};

const MAX_ENTRIES: usize = 50;
const MAX_NAME: usize = 256;
/// Maximum size of all names and values together, in bytes.
const MAX_SIZE: usize = 16 * 1024;

/// Parses `metadata`, an object of strings. Values may have line ends, but no NUL, which Postgres cannot store.
pub fn metadata(node: Option<Node<'_, '_>>, faults: &mut Faults) -> Map<String, Value> {
    let mut map = Map::new();
    let Some(node) = node else { return map };
    let (at, mut size) = (node.at, 0);
    node.each_entry(
        MAX_ENTRIES,
        format_args!("at most {MAX_ENTRIES} entries are allowed"),
        faults,
        |name, node, faults| {
            let is_valid_name = one_line(name, &node.at, 1..=MAX_NAME, faults);
            if let Some(text) = node.prose(faults) {
                size += name.len() + text.len();
                if is_valid_name && size <= MAX_SIZE {
                    map.insert(name.into(), Value::String(text));
                }
            }
        },
    );
    if size > MAX_SIZE {
        let message = format_args!("names and values have {size} bytes together; at most {MAX_SIZE} are allowed");
        at.fault(faults, Code::TooLarge, message);
    }
    map
}
