//! Divides a message's recipients among routes and envelopes, and gives each envelope its return path.
//!
//! A return path identifies a recipient if the message has no other recipient with the same route and destination. With
//! VERP each envelope has one recipient: a message to fifty recipients is sent fifty times. This depends on the message
//! and not on the recipients left at an attempt: servers that greylist (RFC 6647) expect the same return path again.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};

use super::DeliverContext;
use super::message::loaded_message::LoadedMessage;
use crate::db::queue::Claimed;
use crate::domain::address::Address;
use crate::domain::address::return_path::{ReturnPaths, Token};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::Draft;
use crate::domain::routing::is_simulated;
use crate::smtp::{self, Dsn, Route};

/// The settings of return paths, by which bounces identify their message.
#[derive(Debug, Clone)]
pub struct Returns {
    /// Creates the return paths.
    pub paths: ReturnPaths,
    /// Whether each recipient gets a separate envelope (VERP).
    pub verp: bool,
    /// Whether servers are requested to report success too.
    pub success: bool,
}

/// The recipients of one transaction along one route, in the order in which they were claimed.
pub(crate) struct Envelope {
    pub next_hop: NextHop,
    pub smtp: smtp::Envelope,
    pub claimed: Vec<Claimed>,
}

/// Where a transaction goes.
#[derive(Debug, Clone)]
pub(crate) enum NextHop {
    /// Servers, over SMTP.
    Smtp(Route),
    /// The simulator, for one recipient.
    Simulator,
}

/// Returns the envelopes of a message by the current route table, regardless of the routes in the recipients' lanes, or along the
/// given route to the server of an inbound route. A
/// route through relays has one envelope per lane, because each lane has its own limits; direct delivery has one per
/// domain, and the simulator one per recipient, because each of its addresses is a destination of its own.
pub(crate) fn envelopes(
    cx: &DeliverContext,
    message: &LoadedMessage,
    draft: &Draft,
    (mut recipients, inbound): (Vec<(Claimed, Address)>, Option<Route>),
    now: DateTime<Utc>,
) -> Vec<Envelope> {
    let tenant = TenantId(message.stored.row.tenant_id);
    let simulated: Vec<_> = recipients.extract_if(.., |(_, address)| is_simulated(tenant, address.domain())).collect();
    let route = cx.routes.for_sender(&message.stored.row.stream, draft.from.address.domain());
    let is_mx = inbound.is_none() && route.is_mx();
    let mut groups = BTreeMap::<(i64, String), Vec<(Claimed, Address)>>::new();
    for (claimed, address) in recipients {
        let group = if is_mx { (0, address.domain().to_owned()) } else { (claimed.lane_id, String::new()) };
        groups.entry(group).or_default().push((claimed, address));
    }
    let returns = cx.returns.as_ref();
    let is_verp = returns.is_some_and(|returns| returns.verp);
    // Recipients can move between a relay's lanes from one attempt to the next. So with a relay, a recipient counts as
    // single only if the whole message has one recipient.
    let is_single = is_verp || message.stored.addressees.len() == 1;
    let counts = if is_single || !is_mx || returns.is_none() { HashMap::new() } else { domain_counts(message) };
    let mut envelopes = Vec::with_capacity(groups.len() + simulated.len());
    for ((_, domain), recipients) in groups {
        let is_only = is_single || counts.get(&domain) == Some(&1);
        let route = match &inbound {
            Some(server) => server.clone(),
            None if is_mx => Route::Mx { domain },
            None => Route::Relay(route.clone()),
        };
        let parts: Vec<Vec<(Claimed, Address)>> =
            if is_verp { recipients.into_iter().map(|one| vec![one]).collect() } else { vec![recipients] };
        for recipients in parts {
            let (claimed, to): (Vec<Claimed>, Vec<Address>) = recipients.into_iter().unzip();
            let position = if is_only { position(message, &claimed) } else { None };
            let (from, dsn) = sender(returns, message, draft, position, now);
            let smtp = smtp::Envelope { from, to, dsn };
            envelopes.push(Envelope { next_hop: NextHop::Smtp(route.clone()), smtp, claimed });
        }
    }
    for (claimed, address) in simulated {
        let claimed = vec![claimed];
        let (from, dsn) = sender(returns, message, draft, position(message, &claimed), now);
        let smtp = smtp::Envelope { from, to: vec![address], dsn };
        envelopes.push(Envelope { next_hop: NextHop::Simulator, smtp, claimed });
    }
    envelopes
}

/// Returns how many of a message's recipients each domain has.
fn domain_counts(message: &LoadedMessage) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for address in message.stored.addressees.iter().filter_map(|row| row.address.parse::<Address>().ok()) {
        *counts.entry(address.domain().to_owned()).or_default() += 1;
    }
    counts
}

/// Returns the position in the request of the only recipient in `claimed`; `None` if there are several.
fn position(message: &LoadedMessage, claimed: &[Claimed]) -> Option<u16> {
    let [one] = claimed else { return None };
    u16::try_from(message.stored.addressees.iter().position(|row| row.id == one.recipient_id)?).ok()
}

/// Returns the envelope sender and the requested notifications. Without a return path, bounces go to the message's
/// sender, and no notifications are requested, because the sender did not ask for any. A message that is passed on, and a report, keep
/// the sender that they were stored with.
fn sender(
    returns: Option<&Returns>,
    message: &LoadedMessage,
    draft: &Draft,
    position: Option<u16>,
    now: DateTime<Utc>,
) -> (Option<Address>, Option<Dsn>) {
    if let Some(fixed) = draft.fixed_envelope_sender() {
        return (fixed, None);
    }
    let plain = || (Some(draft.envelope_sender()), None);
    let Some(returns) = returns else { return plain() };
    let token = returns.paths.token(Token { message: MessageId(message.stored.row.id), position }, now);
    // This does not fail: an invalid domain is refused at the start.
    let Some(address) = returns.paths.address(&token) else { return plain() };
    (Some(address), Some(Dsn { envelope_id: token, success: returns.success }))
}
