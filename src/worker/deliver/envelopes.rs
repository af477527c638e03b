//! Divides a mail's recipients among routes and envelopes, and gives each envelope its return path.
//!
//! A return path names a recipient where no other of the message goes the same way. With VERP each envelope is for one: a mail
//! to fifty goes fifty times. It is decided by the message and not by who is left of it at an attempt: servers that greylist
//! (RFC 6647) want to see the same return path again.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};

use super::loaded_message::LoadedMessage;
use crate::db::queue::Claimed;
use crate::domain::address::Address;
use crate::domain::id::MessageId;
use crate::domain::return_path::{ReturnPaths, Token};
use crate::smtp::{self, Dsn, Route};
use crate::worker::Parts;

/// How bounces find their message.
#[derive(Debug, Clone)]
pub struct Returns {
    /// Makes the return paths.
    pub paths: ReturnPaths,
    /// Whether each recipient gets a mail of its own.
    pub verp: bool,
    /// Whether servers are asked to tell of success too.
    pub success: bool,
}

/// What goes in one envelope along one route: its recipients as they were claimed, in the same order.
pub(crate) struct Envelope {
    pub route: Route,
    pub envelope: smtp::Envelope,
    pub claimed: Vec<Claimed>,
}

/// By today's table, whatever route the rows were put in a lane for: through the relays of a route lane by lane, since each
/// has limits of its own, or domain by domain.
pub(crate) fn envelopes(
    parts: &Parts,
    mail: &LoadedMessage,
    from: &Address,
    recipients: Vec<(Claimed, Address)>,
    now: DateTime<Utc>,
) -> Vec<Envelope> {
    let route = parts.settings.routes.of(&mail.message.row.stream, from.domain());
    let mut groups = BTreeMap::<(i64, String), Vec<(Claimed, Address)>>::new();
    for (claimed, address) in recipients {
        let group = if route.is_mx() { (0, address.domain().to_owned()) } else { (claimed.lane_id, String::new()) };
        groups.entry(group).or_default().push((claimed, address));
    }
    let returns = parts.settings.returns.as_ref();
    let is_one_by_one = returns.is_some_and(|returns| returns.verp);
    // Lanes through a relay change between attempts, so that there only the whole message counts.
    let is_for_one = is_one_by_one || mail.message.addressees.len() == 1;
    let crowds = if is_for_one || !route.is_mx() || returns.is_none() { HashMap::new() } else { crowds(mail) };
    let mut envelopes = Vec::with_capacity(groups.len());
    for ((_, domain), recipients) in groups {
        let is_only = is_for_one || crowds.get(&domain) == Some(&1);
        let way = if route.is_mx() { Route::Mx { domain } } else { Route::Relay(route.clone()) };
        let envelopes: Vec<Vec<(Claimed, Address)>> =
            if is_one_by_one { recipients.into_iter().map(|one| vec![one]).collect() } else { vec![recipients] };
        for recipients in envelopes {
            let (claimed, to): (Vec<Claimed>, Vec<Address>) = recipients.into_iter().unzip();
            let position = if is_only { place(mail, &claimed) } else { None };
            let (from, dsn) = origin(returns, mail, from, position, now);
            envelopes.push(Envelope {
                route: way.clone(),
                envelope: smtp::Envelope { from: Some(from), to, dsn },
                claimed,
            });
        }
    }
    envelopes
}

/// How many of a message's recipients there are at each domain, where envelopes go by domains.
fn crowds(mail: &LoadedMessage) -> HashMap<String, usize> {
    let mut crowds = HashMap::new();
    for address in mail.message.addressees.iter().filter_map(|row| row.address.parse::<Address>().ok()) {
        *crowds.entry(address.domain().to_owned()).or_default() += 1;
    }
    crowds
}

/// A recipient's place in the request.
fn place(mail: &LoadedMessage, claimed: &[Claimed]) -> Option<u16> {
    let [one] = claimed else { return None };
    u16::try_from(mail.message.addressees.iter().position(|row| row.id == one.recipient_id)?).ok()
}

/// The return path of an envelope, and what is asked to be told with it. Without a domain for it bounces go to the sender,
/// who did not ask for more of them.
fn origin(
    returns: Option<&Returns>,
    mail: &LoadedMessage,
    from: &Address,
    position: Option<u16>,
    now: DateTime<Utc>,
) -> (Address, Option<Dsn>) {
    let plain = || (from.clone(), None);
    let Some(returns) = returns else { return plain() };
    let token = returns.paths.token(Token { message: MessageId(mail.message.row.id), position }, now);
    // What is no domain was refused when the configuration was read.
    let Some(address) = returns.paths.address(&token) else { return plain() };
    (address, Some(Dsn { envelope_id: token, success: returns.success }))
}
