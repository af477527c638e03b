//! Parses `in_reply_to`: the earlier message that a message replies to.

use crate::accept::request::json::pointer::{Pointer, cut};
use crate::accept::request::json::walk::Node;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::id::MessageId;
use crate::domain::message::Header;

/// The headers that `in_reply_to` sets.
pub const SET: [&str; 2] = ["In-Reply-To", "References"];

/// Parses the id of the earlier message. Reports a fault for each header in [`SET`] that the message has as well. `at`
/// is the position of the message in the request.
pub fn in_reply_to(
    node: Option<Node<'_, '_>>,
    headers: &[Header],
    at: &Pointer<'_>,
    faults: &mut Faults,
) -> Option<MessageId> {
    let node = node?;
    let here = node.at;
    for header in headers.iter().filter(|header| SET.iter().any(|set| set.eq_ignore_ascii_case(&header.name))) {
        let all = Pointer::Field(at, "headers");
        let message = format_args!("`{}` is set from `in_reply_to`; leave one of them out", cut(&header.name));
        Pointer::Field(&all, &header.name).fault(faults, Code::ForbiddenHeader, message);
    }
    let text = node.string(faults)?;
    let id = text.parse().ok();
    if id.is_none() {
        let message = "must be the id of an earlier message, such as `msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b`; for any other \
                       message, set the headers `In-Reply-To` and `References`";
        here.fault(faults, Code::InvalidValue, message);
    }
    id
}
