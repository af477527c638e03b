//! Decides which valid messages of a call the caller may send, and prepares their part of the response.

use std::collections::HashMap;

use crate::accept::batch::BatchCall;
use crate::accept::request::batch::{Batch, BatchMessage, Refused};
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::key::Scope;
use crate::domain::message::NewMessage;
use crate::http::auth::Caller;
use crate::http::messages::create::IGNORES_SUPPRESSION;
use crate::http::messages::read::view::Accepted;
use crate::http::messages::reply;
use crate::http::messages::sender::{self, Warning};
use crate::http::{Api, ApiError};

/// The response's parts for new messages, by index.
pub(super) type Views = HashMap<usize, Accepted>;

/// A call whose messages have been checked.
pub(super) struct Admitted {
    messages: Vec<BatchMessage>,
    pub views: Views,
    /// The refused messages, in the order of the request.
    pub refused: Vec<Refused>,
}

impl Admitted {
    /// Returns the call, and the parts of its response.
    pub(super) fn into_call(
        self,
        caller: &Caller,
        key: Option<IdempotencyKey>,
        is_strict: bool,
        list: &'static str,
    ) -> (Views, BatchCall) {
        let Self { messages, views, refused } = self;
        let (tenant, owner) = (caller.tenant(), caller.key_id());
        (views, BatchCall { tenant, owner, key, is_strict, list, messages, refused })
    }
}

/// Checks the messages of a call in the same way as messages of single requests. `list` is the JSON pointer of the list
/// of messages.
pub(super) async fn admit(api: &Api, caller: &Caller, batch: Batch, list: &str) -> Result<Admitted, ApiError> {
    let Batch { messages, mut refused, .. } = batch;
    let mut admitted = Admitted {
        messages: Vec::with_capacity(messages.len()),
        views: HashMap::with_capacity(messages.len()),
        refused: Vec::new(),
    };
    let mut senders = Senders::new();
    for mut message in messages {
        let index = message.index;
        match check(api, caller, &mut message.message, &mut senders).await? {
            Ok(warnings) => {
                let view = Accepted { warnings, ..Accepted::from_new(&message.message) };
                admitted.views.insert(index, view);
                admitted.messages.push(message);
            }
            Err(faults) => {
                let fault = |(field, code, message): (&str, Code, String)| Fault {
                    pointer: format!("{list}/{index}/{field}"),
                    code: code.as_str(),
                    message,
                };
                refused.push(Refused { index, errors: faults.into_iter().map(fault).collect() });
            }
        }
    }
    refused.sort_by_key(|refused| refused.index);
    admitted.refused = refused;
    Ok(admitted)
}

/// The result of the check of each sender domain.
type Senders = HashMap<String, Result<Vec<Warning>, String>>;
/// The field, the code and the message of each fault.
type Faults = Vec<(&'static str, Code, String)>;

/// Returns a message's warnings, or the reasons why it is refused.
async fn check(
    api: &Api,
    caller: &Caller,
    message: &mut NewMessage,
    senders: &mut Senders,
) -> Result<Result<Vec<Warning>, Faults>, ApiError> {
    let domain = message.from.address.domain();
    let mut faults = Faults::new();
    if let Some(reason) = caller.sender_domain_refusal(domain) {
        faults.push(("from", Code::Forbidden, reason));
    }
    if message.ignore_suppression && !caller.has_scope(Scope::Admin) {
        faults.push(("ignore_suppression", Code::Forbidden, IGNORES_SUPPRESSION.into()));
    }
    if !faults.is_empty() {
        return Ok(Err(faults));
    }
    if !reply::find(api, caller, message).await? {
        return Ok(Err(vec![("in_reply_to", Code::UnknownMessage, reply::UNKNOWN_MESSAGE.into())]));
    }
    let domain = message.from.address.domain();
    if !senders.contains_key(domain) {
        let (_, result) = sender::check(api, caller.tenant(), domain).await?;
        senders.insert(domain.to_owned(), result);
    }
    let mut warnings = match senders.get(domain) {
        Some(Ok(warnings)) => warnings.clone(),
        Some(Err(reason)) => return Ok(Err(vec![("from", Code::UnverifiedDomain, reason.clone())])),
        None => Vec::new(),
    };
    if sender::has_no_unsubscribe_link(message)
        && api.acceptor.has_unsubscribe_links(caller.tenant(), &message.stream).await?
    {
        warnings.push(Warning::needs_one_recipient(message));
    }
    warnings.extend_from_slice(&message.warnings);
    Ok(Ok(warnings))
}
