//! The labels of the metrics. Their values are closed lists: no address, domain or tenant, and no name that a client
//! chooses.

use super::family::{Label, label};
use crate::domain::bounce::Category;
use crate::domain::delivery::Status;
use crate::domain::provider::Provider;
use crate::domain::records::retention::Class;

/// The streams that every installation has. Others have names that clients choose, and are counted together.
const STREAMS: [(&str, Stream); 2] = [("transactional", Stream::Transactional), ("bulk", Stream::Bulk)];

label! {
    /// A stream.
    pub enum Stream as "stream" {
        /// The stream `transactional`.
        Transactional = "transactional",
        /// The stream `bulk`.
        Bulk = "bulk",
        /// All other streams.
        Other = "other",
    }
}

impl Stream {
    /// Returns the value for the stream with this name.
    pub fn from_name(name: &str) -> Self {
        STREAMS.iter().find(|(known, _)| *known == name).map_or(Self::Other, |(_, stream)| *stream)
    }
}

label! {
    /// How messages leave.
    pub enum Route as "route" {
        /// Directly to mail exchangers.
        Mx = "mx",
        /// Through a relay of any route.
        Relay = "relay",
        /// The simulator.
        Simulator = "simulator",
    }
}

impl Route {
    /// Returns the value for a name as in `lanes.route`.
    pub fn from_name(name: &str) -> Self {
        match name {
            "mx" => Self::Mx,
            "simulator" => Self::Simulator,
            _ => Self::Relay,
        }
    }
}

label! {
    /// What an attempt, or the wait for one, led to.
    pub enum Outcome as "outcome" {
        /// The recipient's mail server accepted the message.
        Delivered = "delivered",
        /// A relay accepted the message.
        Relayed = "relayed",
        /// Another attempt follows.
        Deferred = "deferred",
        /// The message was refused permanently.
        Bounced = "bounced",
        /// The retry window is over.
        Expired = "expired",
        /// It is unknown whether the message arrived, and no further attempt follows.
        Uncertain = "uncertain",
        /// The address is suppressed.
        Suppressed = "suppressed",
    }
}

impl Outcome {
    /// Returns the value for the status after the attempt.
    pub fn from_status(status: Status) -> Self {
        match status {
            Status::Delivered => Self::Delivered,
            Status::Relayed => Self::Relayed,
            Status::Bounced => Self::Bounced,
            Status::Expired => Self::Expired,
            Status::Uncertain => Self::Uncertain,
            Status::Suppressed => Self::Suppressed,
            // No attempt ends with one of the others.
            Status::Deferred | Status::Sending | Status::Queued | Status::Scheduled | Status::Canceled => {
                Self::Deferred
            }
        }
    }
}

impl Label for Provider {
    const NAME: &'static str = "provider";
    const VALUES: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Class {
    const NAME: &'static str = "class";
    const VALUES: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Category {
    const NAME: &'static str = "category";
    const VALUES: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn word(self) -> &'static str {
        self.as_str()
    }
}

label! {
    /// The writer of a group commit.
    pub enum Writer as "writer" {
        /// Single messages and outcomes.
        Messages = "messages",
        /// Batches, and parts of bulks.
        Batches = "batches",
    }
}

label! {
    /// The result of opening an SMTP session.
    pub enum ConnectResult as "result" {
        /// The session is open.
        Ok = "ok",
        /// No connection was made: it was refused, or there was no reply.
        Unreachable = "unreachable",
        /// The session failed later: the greeting, TLS or the login.
        Refused = "refused",
    }
}

label! {
    /// The TLS policy that a session was opened with.
    pub enum TlsPolicy as "policy" {
        /// TLS is switched off.
        None = "none",
        /// TLS if the server offers it.
        Opportunistic = "opportunistic",
        /// TLS with any certificate.
        Required = "required",
        /// TLS with a valid certificate, as for MTA-STS and most relays.
        Verified = "verified",
    }
}

label! {
    /// The TLS version of a session.
    pub enum TlsVersion as "version" {
        /// Plain text.
        Plain = "none",
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
    }
}

label! {
    /// The records that a DNS lookup asks for.
    pub enum DnsKind as "kind" {
        /// MX records.
        Mx = "mx",
        /// Addresses.
        Address = "address",
        /// TXT records.
        Txt = "txt",
        /// PTR records.
        Ptr = "ptr",
    }
}

label! {
    /// The result of a DNS lookup.
    pub enum DnsResult as "result" {
        /// Records were found.
        Ok = "ok",
        /// There are none.
        NotFound = "not_found",
        /// The lookup failed.
        Failed = "failed",
    }
}

label! {
    /// The part of this process that has a pair of pools.
    pub enum PoolRole as "role" {
        /// The API, and the background tasks of every process.
        Api = "api",
        /// The worker.
        Worker = "worker",
        /// The dashboard.
        Dashboard = "dashboard",
    }
}

label! {
    /// A pool of database connections.
    pub enum PoolName as "pool" {
        /// The pool for most statements.
        Main = "main",
        /// The pool for the statements that run for each message.
        Hot = "hot",
    }
}

label! {
    /// The state of a pooled connection.
    pub enum PoolState as "state" {
        /// In use.
        Used = "used",
        /// Open and free.
        Idle = "idle",
        /// Not open, but allowed.
        Unopened = "unopened",
    }
}

label! {
    /// The class of the status of a response.
    pub enum StatusClass as "status_class" {
        /// 200–299.
        Success = "2xx",
        /// 300–399.
        Redirect = "3xx",
        /// 400–499.
        ClientError = "4xx",
        /// 500–599.
        ServerError = "5xx",
        /// No response.
        NoResponse = "none",
    }
}

impl StatusClass {
    /// Returns the class of a status; `None` is no response.
    pub fn from_status(status: Option<u16>) -> Self {
        match status.map(|status| status / 100) {
            Some(2) => Self::Success,
            Some(3) => Self::Redirect,
            Some(4) => Self::ClientError,
            Some(_) => Self::ServerError,
            None => Self::NoResponse,
        }
    }
}

label! {
    /// A message that was received for a return path, the complaint address, postmaster or an inbound route.
    pub enum InboundKind as "kind" {
        /// A delivery status notification.
        Dsn = "dsn",
        /// A complaint.
        Complaint = "complaint",
        /// An automatic reply.
        AutoReply = "auto_reply",
        /// Anything else.
        Unknown = "unknown",
        /// Stored for an inbound route.
        Received = "received",
        /// Refused at RCPT.
        Refused = "refused",
    }
}

label! {
    /// How the transfer of a message over SMTP submission ended.
    pub enum SubmissionResult as "result" {
        /// The message is committed.
        Accepted = "accepted",
        /// The message had been accepted earlier, with the same `Idempotency-Key`.
        Replayed = "replayed",
        /// Refused for good.
        Refused = "refused",
        /// Refused for now, for example because of a rate or an outage of the database.
        Deferred = "deferred",
    }
}

label! {
    /// How a sign-in over SMTP submission ended.
    pub enum LoginResult as "result" {
        /// The API key is valid and may send.
        Accepted = "accepted",
        /// The API key is invalid, or may not send.
        Refused = "refused",
        /// The address has sent too many invalid keys.
        Limited = "limited",
        /// The key could not be checked.
        Unavailable = "unavailable",
    }
}

label! {
    /// What the queue rows of a stream wait for.
    pub enum QueueState as "state" {
        /// They are due, and nobody has paused them.
        Due = "due",
        /// They are due later.
        Scheduled = "scheduled",
        /// A worker has leased them.
        InFlight = "in_flight",
        /// An operator, who decides about each.
        Held = "held",
        /// The end of a pause: they are due, but their lane or stream is paused, or their tenant is suspended.
        Paused = "paused",
    }
}

label! {
    /// The state of a lane, as in `GET /v1/lanes`.
    pub enum LaneState as "state" {
        /// Messages are sent without a limit.
        Open = "open",
        /// Messages are sent at a limited rate.
        Throttled = "throttled",
        /// The destination is unreachable.
        Blocked = "blocked",
        /// Paused by an operator.
        Paused = "paused",
    }
}

label! {
    /// The state of a webhook endpoint.
    pub enum EndpointState as "state" {
        /// The last post succeeded.
        Healthy = "healthy",
        /// Posts fail.
        Failing = "failing",
        /// Nothing is posted.
        Disabled = "disabled",
    }
}

label! {
    /// What became of a span.
    pub enum SpanResult as "result" {
        /// The collector accepted it.
        Exported = "exported",
        /// The collector refused it, or could not be reached.
        Failed = "failed",
        /// The queue was full.
        Dropped = "dropped",
    }
}

label! {
    /// A request to the object store of attachments.
    pub enum ObjectOperation as "operation" {
        /// An object is stored.
        Put = "put",
        /// An object is read.
        Get = "get",
        /// It is looked up whether an object exists.
        Head = "head",
        /// An object is deleted.
        Delete = "delete",
    }
}

label! {
    /// How a request to the object store ended.
    pub enum ObjectResult as "result" {
        /// It succeeded.
        Ok = "ok",
        /// The object does not exist, or has other bytes than were stored.
        Missing = "missing",
        /// The store could not be reached, or refused the request.
        Failed = "failed",
        /// It was not sent, because others had just failed.
        Skipped = "skipped",
    }
}

label! {
    /// The state of a worker.
    pub enum WorkerState as "state" {
        /// It has sent a heartbeat in time.
        Alive = "alive",
        /// It has sent none in time; others rescue its leases.
        Dead = "dead",
    }
}

label! {
    /// The state of a message that was sent from SQL and is not accepted.
    pub enum EnqueuedState as "state" {
        /// It waits.
        Waiting = "waiting",
        /// It was refused, and waits for an operator.
        Refused = "refused",
    }
}

label! {
    /// The tables that change most.
    pub enum Table as "table" {
        /// The queue.
        Queue = "queue",
        /// Lanes.
        Lanes = "lanes",
        /// Recipients.
        Recipients = "recipients",
        /// Event counters.
        EventCounters = "event_counters",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_clients_choose_are_no_label_values() {
        assert_eq!(Stream::from_name("bulk"), Stream::Bulk);
        assert_eq!(Stream::from_name("acme-newsletter"), Stream::Other);
        assert_eq!([Route::from_name("mx"), Route::from_name("simulator")], [Route::Mx, Route::Simulator]);
        assert_eq!(Route::from_name("relay:acme"), Route::Relay);
    }

    #[test]
    fn status_without_response_has_its_own_class() {
        let classes = [Some(204), Some(302), Some(410), Some(503), None].map(StatusClass::from_status);
        assert_eq!(classes.map(Label::word), ["2xx", "3xx", "4xx", "5xx", "none"]);
    }
}
