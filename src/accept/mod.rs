//! From a validated message to a committed one.
//!
//! [`Acceptor::accept`] answers only after the message is in Postgres: attachments first (`blobs`), so that large ones
//! delay nobody, then everything else together with whatever else arrived at the same moment
//! ([`GroupCommit`]). A request with an `Idempotency-Key` makes at most one message, on however many replicas it is tried.

mod blobs;
pub mod csv_cell;
pub mod import;
mod in_flight;
mod lanes;
pub mod record_splitter;
pub mod request;
mod streams;
mod wake_notifier;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::clock::SharedClock;
use crate::db::messages::idempotency::KeyUse;
use crate::db::messages::insert::{Committed, IdempotencyKey, MessageInsert};
use crate::db::{self, Db, DbError};
use crate::domain::id::{KeyId, MessageId, RecipientId, TenantId};
use crate::domain::message::NewMessage;
use crate::domain::routing::RouteTable;
use crate::group_commit::GroupCommit;

use blobs::Blobs;
use in_flight::InFlight;
use lanes::Lanes;
use streams::Streams;

/// Why a valid message was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The key was used with another request.
    #[error("this Idempotency-Key was used before with a different request")]
    KeyReused,
    /// A request with this key is being worked on.
    #[error("a request with this Idempotency-Key is still being worked on")]
    KeyInFlight,
    /// The database failed.
    #[error(transparent)]
    Db(Arc<DbError>),
}

impl From<DbError> for AcceptError {
    fn from(error: DbError) -> Self {
        Self::Db(Arc::new(error))
    }
}

/// What the sender is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The message was committed now.
    New {
        /// Those of its recipients who get nothing: their addresses are on the suppression list.
        suppressed: Vec<RecipientId>,
    },
    /// The same request was accepted before, as this message.
    Replayed(MessageId),
}

/// Accepts messages. One a process.
#[derive(Debug)]
pub struct Acceptor {
    db: Db,
    group_commit: Arc<GroupCommit>,
    blobs: Blobs,
    lanes: Lanes,
    streams: Streams,
    in_flight: InFlight,
    wake: [Arc<Notify>; 2],
}

impl Acceptor {
    /// Starts tasks on `tasks`; they end when the acceptor is dropped. `wake` and workers of other processes are told of mail that
    /// waits.
    pub fn new(
        db: Db,
        clock: SharedClock,
        routes: RouteTable,
        group_commit: Arc<GroupCommit>,
        wake: Arc<Notify>,
        tasks: &TaskTracker,
    ) -> Self {
        let wake = [wake, wake_notifier::start(db.clone(), tasks)];
        group_commit.tell(&wake);
        Self {
            group_commit,
            blobs: Blobs::start(&db, clock, tasks),
            lanes: Lanes::start(&db, routes, tasks),
            streams: Streams::new(db.clone()),
            in_flight: InFlight::default(),
            db,
            wake,
        }
    }

    /// The names of the tenant's streams, the most urgent first; at most a few seconds old.
    pub async fn streams(&self, tenant: TenantId) -> Result<Arc<[String]>, DbError> {
        self.streams.names(tenant).await
    }

    /// Whether the mail of a stream is to carry a link to unsubscribe by; at most a few seconds old.
    pub async fn asks_for_links(&self, tenant: TenantId, stream: &str) -> Result<bool, DbError> {
        self.streams.asks_for_links(tenant, stream).await
    }

    /// Asks anew which streams there are, so that a new one can be sent to at once.
    pub fn forget_streams(&self) {
        self.streams.forget();
    }

    /// Tells workers, here and elsewhere, that something has become due.
    pub fn wake(&self) {
        self.wake.iter().for_each(|wake| wake.notify_one());
    }

    /// Which lane mail from `sender_domain` to `domain` waits in. Domains as in
    /// [`Address::domain`](crate::domain::address::Address::domain).
    pub async fn lane(
        &self,
        tenant: TenantId,
        stream: &str,
        sender_domain: &str,
        domain: &str,
    ) -> Result<i64, AcceptError> {
        Ok(self.lanes.one(tenant, stream, sender_domain, domain).await.map_err(AcceptError::Db)?.id)
    }

    /// What a key of an API key stands for, if it was used before.
    pub async fn first_use(&self, tenant: TenantId, owner: KeyId, key: &str) -> Result<Option<KeyUse>, DbError> {
        db::messages::idempotency::find(&self.db, tenant, owner, key).await
    }

    /// Commits a message. When this answers, the message is ours.
    pub async fn accept(
        &self,
        tenant: TenantId,
        mut message: NewMessage,
        idempotency: Option<IdempotencyKey>,
    ) -> Result<Accepted, AcceptError> {
        let _guard = match &idempotency {
            Some(with) => {
                let guard = self.in_flight.enter(with.owner, &with.key).ok_or(AcceptError::KeyInFlight)?;
                // Only now: the request that made the key may have ended since it was last looked up.
                if let Some(first) = self.first_use(tenant, with.owner, &with.key).await? {
                    return replayed(&first, with);
                }
                Some(guard)
            }
            None => None,
        };
        let keeps = db::messages::stored::is_kept(message.size()) && self.group_commit.has_taker();
        self.blobs.store(tenant, &mut message.attachments, keeps).await.map_err(AcceptError::Db)?;
        let lanes = self.lanes.all(tenant, &message).await.map_err(AcceptError::Db)?;
        let with = idempotency.clone();
        let intake = MessageInsert { tenant, message, lanes, idempotency, taker: None };
        match (self.group_commit.accept(intake).await.map_err(AcceptError::Db)?, with) {
            (Committed::New { suppressed, .. }, _) => Ok(Accepted::New { suppressed }),
            (Committed::KeyUsed(first), Some(with)) => replayed(&first, &with),
            (Committed::KeyUsed(_), None) => Err(AcceptError::KeyReused),
        }
    }
}

/// The message of the first request, if this is the same.
fn replayed(first: &KeyUse, with: &IdempotencyKey) -> Result<Accepted, AcceptError> {
    let is_same = first.fingerprint == with.fingerprint || first.digest.as_deref() == Some(&with.digest[..]);
    if is_same { Ok(Accepted::Replayed(MessageId(first.message_id))) } else { Err(AcceptError::KeyReused) }
}
