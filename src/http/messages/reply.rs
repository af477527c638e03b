//! Replies: the headers of a message with `in_reply_to`.

use crate::domain::api::fault::{Code, Fault};
use crate::domain::message::NewMessage;
use crate::http::auth::Caller;
use crate::http::{Api, ApiError};

/// The fault of a message whose `in_reply_to` is not a message that the caller may see.
pub(super) const UNKNOWN_MESSAGE: &str = "no message has this id; to reply to a message that was not sent here, set the \
                                          headers `In-Reply-To` and `References`";

/// Sets the headers of a message that replies to an earlier one. Fails if the earlier one does not exist for the caller.
pub(super) async fn set_headers(api: &Api, caller: &Caller, message: &mut NewMessage) -> Result<(), ApiError> {
    if find(api, caller, message).await? {
        return Ok(());
    }
    Err(ApiError::Invalid(vec![Fault {
        pointer: "/in_reply_to".into(),
        code: Code::UnknownMessage.as_str(),
        message: UNKNOWN_MESSAGE.into(),
    }]))
}

/// Sets the headers of a message that replies to an earlier one. Returns `false` if the earlier one does not exist for
/// the caller.
pub(super) async fn find(api: &Api, caller: &Caller, message: &mut NewMessage) -> Result<bool, ApiError> {
    if message.in_reply_to.is_none() {
        return Ok(true);
    }
    // Boxed to keep the future of the calling function small: it is moved for every message, and few are replies.
    let set = api.acceptor.set_thread_headers(caller.tenant(), message, |from| caller.can_see(from));
    Ok(Box::pin(set).await?)
}
