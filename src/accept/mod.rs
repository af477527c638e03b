//! Commits validated messages.
//!
//! [`Acceptor::accept`] returns only after the message has been committed to Postgres. Attachments are stored first
//! (`blobs`), so that large ones delay no other request; the rest is committed in one transaction with the other
//! messages of the same moment ([`GroupCommit`]). A request with an `Idempotency-Key` creates at most one message, no
//! matter how many replicas receive it.

pub mod background;
pub mod batch;
pub(crate) mod blobs;
pub mod bulk;
pub mod import;
mod lanes;
pub mod request;
mod reserved_keys;
mod streams;
pub mod templates;
mod thread;
mod wake_notifier;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::clock::SharedClock;
use crate::db::changes::{Cached as _, Caches, Outdated, TenantSettings};
use crate::db::messages::blobs::Sizes;
use crate::db::messages::idempotency::KeyUse;
use crate::db::messages::insert::{Committed, IdempotencyKey, MessageInsert};
use crate::db::{self, Db, DbError};
use crate::domain::id::{KeyId, MessageId, RecipientId, TenantId};
use crate::domain::message::NewMessage;
use crate::domain::routing::RouteTable;
use crate::group_commit::GroupCommit;
use crate::object_storage::ObjectError;

use blobs::upload::Upload;
use blobs::{Blobs, StoreError};
use lanes::Lanes;
use reserved_keys::ReservedKeys;
use streams::Streams;
use templates::TemplateStore;
pub use wake_notifier::WakeNotifier;

/// Poll interval of a background task without work. Usually it is woken before: by new work of its process, or by
/// [`WorkPoll`](background::work_poll::WorkPoll).
const IDLE_POLL_INTERVAL: Duration = Duration::from_mins(1);

/// Why a valid message was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The key was used with a different request.
    #[error("this Idempotency-Key was used before with a different request")]
    KeyReused,
    /// A request with this key is in progress.
    #[error("a request with this Idempotency-Key is still in progress")]
    KeyInFlight,
    /// The template was deleted while the request was processed.
    #[error("the template was deleted")]
    TemplateDeleted,
    /// An attached file was deleted while the request was processed. Nothing was committed.
    #[error("an attached file was deleted while the message was being accepted")]
    FileDeleted,
    /// Postgres has lost chunks of an attachment in a crash, or storing it took too long. Nothing was committed.
    #[error("chunks of an attachment were lost, or storing it took too long")]
    FileIncomplete,
    /// The database failed.
    #[error(transparent)]
    Db(Arc<DbError>),
    /// The object store for attachments failed. Nothing was committed.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

impl AcceptError {
    /// Returns whether the request may have been committed: the database's response is missing.
    pub fn may_be_done(&self) -> bool {
        matches!(self, Self::Db(error) if error.may_be_done())
    }
}

impl From<DbError> for AcceptError {
    fn from(error: DbError) -> Self {
        Self::Db(Arc::new(error))
    }
}

impl From<Arc<DbError>> for AcceptError {
    fn from(error: Arc<DbError>) -> Self {
        Self::Db(error)
    }
}

impl From<StoreError> for AcceptError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Incomplete => Self::FileIncomplete,
            StoreError::Db(error) => Self::Db(error),
            StoreError::Objects(error) => Self::Objects(error),
        }
    }
}

/// Result of accepting a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The message was committed by this request.
    New {
        /// Recipients to which nothing is sent, because their addresses are on the suppression list.
        suppressed: Vec<RecipientId>,
    },
    /// The same request was accepted earlier, as this message.
    Replayed(MessageId),
}

/// A call of several messages, after its idempotency keys have been looked up.
#[derive(Debug)]
pub enum Resolved<Ready, Done> {
    /// Its new messages can be committed.
    Ready(Ready),
    /// It is done, and commits nothing.
    Done(Done),
}

/// The other parts of the service that an [`Acceptor`] uses.
#[derive(Debug)]
pub struct Dependencies {
    /// Decides through which route a message is sent.
    pub routes: RouteTable,
    /// Commits messages.
    pub group_commit: Arc<GroupCommit>,
    /// Notifies workers of messages.
    pub wake: WakeNotifier,
    /// The caches of the process.
    pub caches: Arc<Caches>,
}

/// Accepts messages. Each process has one `Acceptor`.
#[derive(Debug)]
pub struct Acceptor {
    db: Db,
    group_commit: Arc<GroupCommit>,
    blobs: Blobs,
    lanes: Lanes,
    /// The caches of the process.
    caches: Arc<Caches>,
    streams: Arc<Streams>,
    templates: Arc<TemplateStore>,
    reserved_keys: ReservedKeys,
    wake: WakeNotifier,
    /// Notifies the expander of this process of a new bulk.
    bulk_wake: Notify,
    /// Notifies the task of this process that works on actions of a new one.
    action_wake: Notify,
    /// Notifies the task of this process that works on erasures of a new one.
    erasure_wake: Notify,
    /// Notifies the task of this process that accepts messages sent from SQL that there are some.
    sql_inbox_wake: Notify,
}

impl Acceptor {
    /// Creates the acceptor and starts its tasks on `tasks`; they end when the acceptor is dropped.
    pub fn new(db: Db, clock: SharedClock, dependencies: Dependencies, tasks: &TaskTracker) -> Self {
        let Dependencies { routes, group_commit, wake, caches } = dependencies;
        Self {
            group_commit,
            blobs: Blobs::start(&db, clock, tasks),
            lanes: Lanes::start(&db, routes, tasks),
            streams: Streams::start(&db, caches.clone(), tasks),
            templates: TemplateStore::start(db.clone(), caches.clone(), tasks),
            caches,
            reserved_keys: ReservedKeys::default(),
            db,
            wake,
            bulk_wake: Notify::new(),
            action_wake: Notify::new(),
            erasure_wake: Notify::new(),
            sql_inbox_wake: Notify::new(),
        }
    }

    /// Returns the names of the tenant's streams, most urgent first. A change by another process is seen within a second.
    pub async fn streams(&self, tenant: TenantId) -> Result<Arc<[String]>, Arc<DbError>> {
        self.streams.names(tenant).await
    }

    /// Returns whether messages of a stream carry an unsubscribe link. A change by another process is seen within a second.
    pub async fn has_unsubscribe_links(&self, tenant: TenantId, stream: &str) -> Result<bool, Arc<DbError>> {
        self.streams.has_unsubscribe_links(tenant, stream).await
    }

    /// Looks up the tenant's streams and templates again when they are used next.
    fn forget_settings(&self, tenant: TenantId) {
        self.streams.forget(Outdated::Settings(tenant, TenantSettings::Streams));
        self.templates.forget(Outdated::Settings(tenant.live(), TenantSettings::Templates));
    }

    /// Returns the caches of the process, to which its changes must be passed on.
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// Returns the templates.
    pub fn templates(&self) -> &TemplateStore {
        &self.templates
    }

    /// Makes the expander of this process look for a bulk to work on at once.
    pub fn wake_expander(&self) {
        self.bulk_wake.notify_one();
    }

    /// Notifies workers, in this and in other processes, that messages have become due.
    pub fn wake(&self) {
        self.wake.notify();
    }

    /// Returns the lane of messages from `sender_domain` to `domain`. Domains are in the form of
    /// [`Address::domain`](crate::domain::address::Address::domain).
    pub async fn lane(
        &self,
        tenant: TenantId,
        stream: &str,
        sender_domain: &str,
        domain: &str,
    ) -> Result<i64, AcceptError> {
        Ok(self.lanes.for_domain(tenant, stream, sender_domain, domain).await.map_err(AcceptError::Db)?.id)
    }

    /// Returns the first use of an API key's idempotency key, if there is one.
    pub async fn first_use(&self, tenant: TenantId, owner: KeyId, key: &str) -> Result<Option<KeyUse>, DbError> {
        db::messages::idempotency::find(&self.db, tenant, owner, key).await
    }

    /// Returns the sizes of the stored blobs among those with these digests (SHA-256 in hexadecimal). The blobs stay
    /// stored for at least several hours.
    pub async fn find_blobs(&self, tenant: TenantId, digests: &[String]) -> Result<Sizes, DbError> {
        db::messages::blobs::find(&self.db, tenant, digests, self.blobs.clock.now()).await
    }

    /// Starts to receive a file.
    pub fn upload(&self, tenant: TenantId) -> Upload<'_> {
        Upload::new(&self.blobs, tenant, false)
    }

    /// Starts to receive a file that is stored already: its digest is verified.
    pub fn verify(&self, tenant: TenantId) -> Upload<'_> {
        Upload::new(&self.blobs, tenant, true)
    }

    /// Stores files that have been received, given by their digests and their bytes.
    pub async fn store_files(&self, tenant: TenantId, files: Vec<(String, Vec<u8>)>) -> Result<(), AcceptError> {
        Ok(self.blobs.store_files(tenant, files).await?)
    }

    /// Sets the headers of a message that replies to an earlier one (`in_reply_to`). Returns `false` if there is no such
    /// message from a sender for which `can_see` returns `true`.
    pub async fn set_thread_headers(
        &self,
        tenant: TenantId,
        message: &mut NewMessage,
        can_see: impl Fn(&str) -> bool,
    ) -> Result<bool, DbError> {
        thread::set_headers(&self.db, tenant, message, can_see).await
    }

    /// Commits a message sent with this API key. Once this returns `Ok`, the service is responsible for the message.
    pub async fn accept(
        &self,
        tenant: TenantId,
        key: KeyId,
        mut message: NewMessage,
        idempotency: Option<IdempotencyKey>,
    ) -> Result<Accepted, AcceptError> {
        let _guard = match &idempotency {
            Some(requested) => {
                let guard =
                    self.reserved_keys.reserve(requested.owner, &requested.key).ok_or(AcceptError::KeyInFlight)?;
                // Look the key up again under the guard: the request that created it may have ended since the last
                // lookup.
                if let Some(first) = self.first_use(tenant, requested.owner, &requested.key).await? {
                    return replayed(&first, requested);
                }
                Some(guard)
            }
            None => None,
        };
        let keep_small = db::messages::stored::fits_inline(message.size()) && self.group_commit.has_consumer();
        let id = message.id;
        self.blobs.store(tenant, id, &mut message.attachments, keep_small).await?;
        let lanes = self.lanes.for_message(tenant, &message).await.map_err(AcceptError::Db)?;
        let requested = idempotency.clone();
        let insert = MessageInsert {
            tenant,
            message,
            lanes,
            key: Some(key),
            idempotency,
            direct_consumer: None,
            is_canceled: false,
        };
        match (self.group_commit.accept(insert).await.map_err(AcceptError::Db)?, requested) {
            (Committed::New { suppressed, .. }, _) => Ok(Accepted::New { suppressed }),
            (Committed::KeyUsed(first), Some(requested)) => replayed(&first, &requested),
            (Committed::KeyUsed(_), None) => Err(AcceptError::KeyReused),
        }
    }
}

/// Returns the message of the first request with the key, or an error if this request differs from the first.
fn replayed(first: &KeyUse, requested: &IdempotencyKey) -> Result<Accepted, AcceptError> {
    let is_same = first.is_same_request(&requested.fingerprint, &requested.digest);
    if is_same { Ok(Accepted::Replayed(MessageId(first.message_id))) } else { Err(AcceptError::KeyReused) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsent_call_is_not_done() {
        let timeout = DbError::Timeout { query: "q", limit: Duration::ZERO };
        assert!(AcceptError::from(timeout).may_be_done());
        assert!(!AcceptError::from(DbError::closed("q")).may_be_done() && !AcceptError::KeyReused.may_be_done());
    }
}
