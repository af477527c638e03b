//! Stores the bytes of attachments in the database, and the references of messages to them.
//!
//! Small attachments that arrive while a statement runs are stored together by the next statement: a separate
//! statement, with its plan, round trip and `fsync`, costs more than the bytes. Large attachments are stored
//! individually, chunk by chunk, so that they delay no other request. A query first finds out which of them the
//! database already has, because most large attachments are sent repeatedly. If an object store is configured, the
//! bytes of those above its threshold go there, before the message is committed.
//!
//! A message is accepted only after a statement has added references to attachments that are stored: see
//! [`crate::db::messages::blob_cleanup`].

pub(crate) mod upload;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::AcceptError;
use crate::batcher::{BatchLimit, Batcher, Reply, Requests, reply_all};
use crate::clock::SharedClock;
use crate::db::messages::blobs::objects::{self, NewObject};
use crate::db::messages::blobs::{self, CHUNK_BYTES, References, SmallBlob};
use crate::db::messages::uploads::{Completed, Upload};
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::NewAttachment;
use crate::object_storage::{ObjectError, ObjectStorage};

/// Size in bytes up to which sending a blob costs less than asking whether the database already has it.
pub(super) const SMALL_BLOB_BYTES: usize = 128 << 10;
/// Limit of one statement: the small blobs in it have together at most the size of one chunk of a large blob.
static BATCH_LIMIT: BatchLimit<Blob> =
    BatchLimit { items: usize::MAX, bytes: CHUNK_BYTES as u64, size: |blob| blob.data.len() as u64 };
/// Capacity of the writer's queue, in blobs.
const QUEUE_CAPACITY: usize = 256;
/// Maximum number of tries to complete an upload, if other transactions store and delete the same blob meanwhile.
const COMPLETE_TRIES: usize = 3;
/// Number of small attachments of one request that wait for the writer at the same time.
const PART: usize = 64;
/// Maximum number of chunks that this process writes at the same time. Each is in memory three times meanwhile: in the upload,
/// in the arguments of the statement, and in the buffer of the connection. More of them would not be stored faster, because
/// Postgres takes longest, and would leave no connections to other requests.
const CHUNK_WRITES: usize = 3;

type Key = (TenantId, String);
/// The result of storing small attachments.
type StoredSmall = Result<(), Arc<DbError>>;
type Stored = Result<(), StoreError>;

/// Why attachments were not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum StoreError {
    /// Postgres has lost chunks of an attachment in a crash, or the upload took too long. Another try succeeds.
    #[error("chunks were lost, or the upload took too long")]
    Incomplete,
    /// The database failed.
    #[error(transparent)]
    Db(#[from] Arc<DbError>),
    /// The object store failed.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        Self::Db(Arc::new(error))
    }
}

/// A small attachment that waits for the writer.
#[derive(Debug)]
struct Blob {
    tenant: TenantId,
    digest: String,
    data: Arc<Vec<u8>>,
    /// The message content that will refer to the blob.
    content: Option<Uuid>,
}

/// Stores attachments.
#[derive(Debug)]
pub(super) struct Blobs {
    pub(super) db: Db,
    pub(super) clock: SharedClock,
    small: Batcher<Blob, StoredSmall>,
    chunk_writes: Semaphore,
}

impl Blobs {
    /// Starts the writer of small attachments. The writer ends once this is dropped and its queue is empty.
    pub(super) fn start(db: &Db, clock: SharedClock, tasks: &TaskTracker) -> Self {
        let (small, requests) = Batcher::new(QUEUE_CAPACITY, &BATCH_LIMIT);
        tasks.spawn(Writer { db: db.clone(), clock: clock.clone(), requests }.run());
        Self { db: db.clone(), clock, small, chunk_writes: Semaphore::new(CHUNK_WRITES) }
    }

    /// Stores the bytes of a message's attachments that the database does not have yet, and drops them from memory.
    /// With `keep_small`, small attachments keep their bytes. Adds references from the message's content to all of its
    /// attachments.
    pub(super) async fn store(
        &self,
        tenant: TenantId,
        message: MessageId,
        attachments: &mut [NewAttachment],
        keep_small: bool,
    ) -> Result<(), AcceptError> {
        let (small, others): (Vec<_>, Vec<_>) =
            attachments.iter_mut().partition(|a| !a.is_stored() && a.data.len() <= SMALL_BLOB_BYTES);
        try_join_all(small.into_iter().map(|attachment| self.store_kept(tenant, message, attachment, keep_small)))
            .await?;
        if others.is_empty() {
            return Ok(());
        }
        let references = others.iter().map(|a| (a.description.sha256.clone(), message.0)).collect();
        let large = others.into_iter().filter(|attachment| !attachment.is_stored());
        let large = large.map(|a| (a.description.sha256.clone(), std::mem::take(&mut a.data)));
        self.store_and_refer(tenant, large.collect(), references).await
    }

    /// Stores the attachments of several messages as [`store`](Self::store) does, but stores equal attachments only
    /// once.
    pub(super) async fn store_all(
        &self,
        tenant: TenantId,
        attachments: Vec<(MessageId, &mut NewAttachment)>,
        keep_small: bool,
    ) -> Result<(), AcceptError> {
        let (mut small, mut large, mut references) = (BTreeMap::new(), BTreeMap::new(), References::new());
        for (message, attachment) in attachments {
            references.insert((attachment.description.sha256.clone(), message.0));
            if attachment.is_stored() {
                continue;
            }
            let is_small = attachment.data.len() <= SMALL_BLOB_BYTES;
            let contents = if is_small { &mut small } else { &mut large };
            let is_kept = is_small && keep_small;
            match contents.entry(attachment.description.sha256.clone()) {
                Entry::Vacant(entry) if is_kept => drop(entry.insert(attachment.data.clone())),
                Entry::Vacant(entry) => drop(entry.insert(std::mem::take(&mut attachment.data))),
                Entry::Occupied(_) if is_kept => {}
                Entry::Occupied(_) => attachment.data = Vec::new(),
            }
        }
        self.store_all_small(tenant, small.into_iter().collect()).await?;
        self.store_and_refer(tenant, large.into_iter().collect(), references).await
    }

    /// Stores large attachments, and adds these references. Those to attachments that are stored already are added first, because
    /// the others may take long, and only a reference keeps an attachment from being deleted when another message is redacted.
    async fn store_and_refer(
        &self,
        tenant: TenantId,
        large: BTreeMap<String, Vec<u8>>,
        references: References,
    ) -> Result<(), AcceptError> {
        let (later, first): (References, References) =
            references.into_iter().partition(|(digest, _)| large.contains_key(digest));
        self.refer(tenant, &first).await?;
        self.store_large(tenant, large.into_iter().collect()).await?;
        self.refer(tenant, &later).await
    }

    async fn refer(&self, tenant: TenantId, references: &References) -> Result<(), AcceptError> {
        let are_stored = references.is_empty() || blobs::refer(&self.db, tenant, references).await?;
        if are_stored { Ok(()) } else { Err(AcceptError::FileDeleted) }
    }

    /// Stores files with these digests, to which no message refers yet.
    pub(super) async fn store_files(&self, tenant: TenantId, files: Vec<(String, Vec<u8>)>) -> Stored {
        let (small, large): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, data)| data.len() <= SMALL_BLOB_BYTES);
        self.store_all_small(tenant, small).await?;
        self.store_large(tenant, large).await
    }

    /// Stores blobs of at most [`SMALL_BLOB_BYTES`] each.
    async fn store_all_small(&self, tenant: TenantId, small: Vec<(String, Vec<u8>)>) -> Stored {
        let mut small = small.into_iter();
        loop {
            // Submits only a part at a time, so that the attachments of other requests do not wait for all of them.
            let part: Vec<(String, Vec<u8>)> = small.by_ref().take(PART).collect();
            if part.is_empty() {
                return Ok(());
            }
            let stored = part.into_iter().map(|(digest, data)| self.store_small(tenant, digest, Arc::new(data), None));
            try_join_all(stored).await?;
        }
    }

    async fn store_kept(
        &self,
        tenant: TenantId,
        message: MessageId,
        attachment: &mut NewAttachment,
        keep_small: bool,
    ) -> Stored {
        let digest = attachment.description.sha256.clone();
        let data = Arc::new(std::mem::take(&mut attachment.data));
        self.store_small(tenant, digest, data.clone(), Some(message.0)).await?;
        if keep_small {
            attachment.data = Arc::unwrap_or_clone(data);
        }
        Ok(())
    }

    /// Stores a blob of at most [`SMALL_BLOB_BYTES`], together with others.
    pub(super) async fn store_small(
        &self,
        tenant: TenantId,
        digest: String,
        data: Arc<Vec<u8>>,
        content: Option<Uuid>,
    ) -> StoredSmall {
        let stored = self.small.submit(Blob { tenant, digest, data, content }).await;
        stored.ok_or_else(|| Arc::new(DbError::closed("blobs.insert_group")))?
    }

    /// Stores blobs of more than [`SMALL_BLOB_BYTES`] each.
    pub(super) async fn store_large(&self, tenant: TenantId, large: Vec<(String, Vec<u8>)>) -> Stored {
        if large.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let digests: Vec<String> = large.iter().map(|(digest, _)| digest.clone()).collect();
        let existing = blobs::find_and_touch(&self.db, tenant, &digests, now).await?;
        for (digest, data) in large {
            if existing.contains_key(&digest) {
                continue;
            }
            if let Some(objects) = self.db.objects().filter(|objects| objects.is_above_threshold(data.len() as u64)) {
                // Boxed, because the future is large.
                Box::pin(self.store_object(objects, tenant, &digest, data)).await?;
                continue;
            }
            if data.len() <= CHUNK_BYTES {
                self.store_single_chunk(tenant, &digest, &data).await?;
                continue;
            }
            let mut upload = Upload::new(tenant, now);
            for chunk in data.chunks(CHUNK_BYTES) {
                if !self.add_chunk(&mut upload, chunk).await? {
                    return Err(StoreError::Incomplete);
                }
            }
            if !self.complete(tenant, upload, &digest).await? {
                return Err(StoreError::Incomplete);
            }
        }
        Ok(())
    }

    /// Stores the next chunk of an upload. Returns `false` if the upload has expired or was lost.
    pub(super) async fn add_chunk(&self, upload: &mut Upload, data: &[u8]) -> Result<bool, DbError> {
        // Never closed.
        let _permit = self.chunk_writes.acquire().await;
        upload.add(&self.db, data, self.clock.now()).await
    }

    /// Stores a blob of more than [`SMALL_BLOB_BYTES`] and at most one chunk.
    pub(super) async fn store_single_chunk(&self, tenant: TenantId, digest: &str, data: &[u8]) -> Result<(), DbError> {
        let _permit = self.chunk_writes.acquire().await;
        blobs::insert(&self.db, tenant, digest, data, self.clock.now()).await
    }

    /// Stores a blob in the object store. If anything fails, or this process ends, a worker deletes the object a day
    /// later: it is entered before it is stored.
    async fn store_object(&self, storage: &ObjectStorage, tenant: TenantId, sha256: &str, data: Vec<u8>) -> Stored {
        let (started_at, size) = (self.clock.now(), data.len() as u64);
        let key = storage.new_key(sha256, started_at);
        self.put_object(storage, &key, data).await?;
        if self.complete_object(NewObject { tenant, sha256, size, key: &key }).await? {
            return Ok(());
        }
        // Not an error of the database, which would refuse a message sent from SQL for good: another try succeeds.
        Err(ObjectError::Unavailable.into())
    }

    /// Enters an object, and stores it.
    async fn put_object(&self, storage: &ObjectStorage, key: &str, data: Vec<u8>) -> Stored {
        objects::begin(&self.db, key, self.clock.now()).await?;
        if let Err(error) = storage.put(key, Bytes::from(data)).await {
            // Due in a day, not at once, because the store may get the object later.
            objects::begin(&self.db, key, self.clock.now()).await?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Inserts the blob of a stored object, or discards the object if the blob is already stored, or if the upload has expired.
    /// Returns `false` if the upload has expired, or if all tries failed.
    async fn complete_object(&self, object: NewObject<'_>) -> Result<bool, DbError> {
        let digests = [object.sha256.to_owned()];
        for _ in 0..COMPLETE_TRIES {
            let now = self.clock.now();
            match objects::complete(&self.db, object, now).await? {
                Completed::New => return Ok(true),
                // A worker may have deleted the object before it was stored.
                Completed::Expired => return objects::discard(&self.db, object.key).await.map(|()| false),
                Completed::Existing => {}
            }
            if blobs::find(&self.db, object.tenant, &digests, now).await?.contains_key(object.sha256) {
                objects::discard(&self.db, object.key).await?;
                return Ok(true);
            }
            // Another transaction has deleted the blob meanwhile.
        }
        Ok(false)
    }

    /// Completes an upload in the object store: moves its bytes there, unless the blob is already stored. Returns `false` if
    /// the upload has expired or lacks chunks, or if all tries failed.
    pub(super) async fn move_to_object(
        &self,
        storage: &ObjectStorage,
        tenant: TenantId,
        upload: Upload,
        sha256: &str,
    ) -> Result<bool, StoreError> {
        let (started_at, digests) = (self.clock.now(), [sha256.to_owned()]);
        if blobs::find(&self.db, tenant, &digests, started_at).await?.contains_key(sha256) {
            upload.discard(&self.db, started_at).await?;
            return Ok(true);
        }
        let moved = self.copy_to_object(storage, tenant, &upload, sha256).await;
        // Its chunks are not needed any more, or the request fails.
        let discarded = upload.discard(&self.db, self.clock.now()).await;
        Ok(moved? && discarded.map(|()| true)?)
    }

    async fn copy_to_object(
        &self,
        storage: &ObjectStorage,
        tenant: TenantId,
        upload: &Upload,
        sha256: &str,
    ) -> Result<bool, StoreError> {
        let (started_at, size) = (self.clock.now(), upload.size());
        let _memory = storage.reserve_memory(size).await;
        let Some(data) = upload.read(&self.db).await? else { return Ok(false) };
        let key = storage.new_key(sha256, started_at);
        self.put_object(storage, &key, data).await?;
        Ok(self.complete_object(NewObject { tenant, sha256, size, key: &key }).await?)
    }

    /// Completes an upload, or discards it if the blob is already stored. Returns `false` if the upload has expired or lacks
    /// chunks, or if all tries failed.
    pub(super) async fn complete(&self, tenant: TenantId, upload: Upload, digest: &str) -> Result<bool, DbError> {
        let digests = [digest.to_owned()];
        for _ in 0..COMPLETE_TRIES {
            match upload.complete(&self.db, digest, self.clock.now()).await? {
                Completed::New => return Ok(true),
                // If only chunks were lost, the others are still there.
                Completed::Expired => return upload.discard(&self.db, self.clock.now()).await.map(|()| false),
                Completed::Existing => {}
            }
            let now = self.clock.now();
            if blobs::find(&self.db, tenant, &digests, now).await?.contains_key(digest) {
                upload.discard(&self.db, now).await?;
                return Ok(true);
            }
            // Another transaction has deleted the blob meanwhile.
        }
        Ok(false)
    }
}

struct Writer {
    db: Db,
    clock: SharedClock,
    requests: Requests<Blob, StoredSmall>,
}

impl Writer {
    async fn run(self) {
        while let Some(batch) = self.requests.next_batch().await {
            let (mut group, mut replies) = (blobs::Group::new(), Vec::new());
            for (Blob { tenant, digest, data, content }, reply) in batch {
                replies.push(((tenant, digest.clone()), reply));
                let blob = group.entry((tenant, digest)).or_insert(SmallBlob { data, contents: BTreeSet::new() });
                blob.contents.extend(content);
            }
            match blobs::insert_group(&self.db, &group, self.clock.now()).await {
                Err(DbError::Refused { .. }) if group.len() > 1 => self.one_by_one(group, replies).await,
                result => {
                    // Drop the group before the replies are sent, so that a caller that keeps its bytes need not copy
                    // them.
                    drop(group);
                    reply_all(replies.into_iter().map(|(_, reply)| reply), &result.map_err(Arc::new));
                }
            }
        }
    }

    /// Stores each blob individually, so that one blob that Postgres refuses does not fail the rest of its group.
    async fn one_by_one(&self, group: blobs::Group, replies: Vec<(Key, Reply<StoredSmall>)>) {
        let mut results = BTreeMap::new();
        for (key, blob) in group {
            let single = blobs::Group::from([(key.clone(), blob)]);
            let result = blobs::insert_group(&self.db, &single, self.clock.now()).await.map_err(Arc::new);
            results.insert(key, result);
        }
        for (key, reply) in replies {
            reply.send(results.get(&key).cloned().unwrap_or(Ok(())));
        }
    }
}
