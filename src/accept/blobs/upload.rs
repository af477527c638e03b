//! Receives a file piece by piece, computes its digest, and stores it as a blob. At most one chunk is in memory
//! while it arrives, and a few chunks of all uploads together have copies for the database. The key of an object has the
//! digest of the file, so a large file for the object store is in the database until all of it has arrived.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Blobs, SMALL_BLOB_BYTES, StoreError};
use crate::db::DbError;
use crate::db::messages::blobs::CHUNK_BYTES;
use crate::db::messages::uploads;
use crate::domain::id::TenantId;
use crate::domain::key::hex;
use crate::object_storage::ObjectError;

/// A file that is being received.
pub struct Upload<'a> {
    blobs: &'a Blobs,
    tenant: TenantId,
    hash: Sha256,
    size: u64,
    /// Bytes that are not stored yet, at most one chunk.
    buffer: Vec<u8>,
    /// The stored chunks, once the file is larger than one chunk.
    stored: Option<uploads::Upload>,
    /// Whether the bytes are only hashed, because the blob is stored already.
    is_only_hashed: bool,
}

/// A received file.
#[derive(Debug)]
pub struct Uploaded {
    /// SHA-256 of the bytes, in hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// The bytes, if they are not stored.
    pub data: Option<Vec<u8>>,
}

/// Why a file was not stored.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The bytes have another digest than expected.
    #[error("the file has the SHA-256 {0}")]
    Mismatch(String),
    /// Postgres has lost chunks in a crash, or the upload took too long. Another try succeeds.
    #[error("chunks were lost, or the upload took too long")]
    Incomplete,
    /// The database failed.
    #[error(transparent)]
    Db(Arc<DbError>),
    /// The object store failed.
    #[error(transparent)]
    Objects(ObjectError),
}

impl From<StoreError> for UploadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Incomplete => Self::Incomplete,
            StoreError::Db(error) => Self::Db(error),
            StoreError::Objects(error) => Self::Objects(error),
        }
    }
}

impl From<DbError> for UploadError {
    fn from(error: DbError) -> Self {
        Self::Db(Arc::new(error))
    }
}

impl<'a> Upload<'a> {
    pub(in crate::accept) fn new(blobs: &'a Blobs, tenant: TenantId, is_only_hashed: bool) -> Self {
        Self { blobs, tenant, hash: Sha256::new(), size: 0, buffer: Vec::new(), stored: None, is_only_hashed }
    }

    /// Adds the next bytes. Stores a chunk when the following one begins.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), UploadError> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        while !bytes.is_empty() && !self.is_only_hashed {
            if self.buffer.len() == CHUNK_BYTES {
                self.store_chunk().await?;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.buffer.len()));
            if self.buffer.len() + now.len() > SMALL_BLOB_BYTES {
                // At once: a buffer that doubles leaves as much memory behind as it has in the end.
                self.buffer.reserve_exact(CHUNK_BYTES - self.buffer.len());
            }
            self.buffer.extend_from_slice(now);
            bytes = rest;
        }
        Ok(())
    }

    async fn store_chunk(&mut self) -> Result<(), UploadError> {
        let now = self.blobs.clock.now();
        let upload = self.stored.get_or_insert_with(|| uploads::Upload::new(self.tenant, now));
        let is_stored = self.blobs.add_chunk(upload, &self.buffer).await?;
        self.buffer.clear();
        if is_stored { Ok(()) } else { Err(UploadError::Incomplete) }
    }

    /// Stores the file. Fails if its digest is not `expected`.
    pub async fn finish(self, expected: Option<&str>) -> Result<Uploaded, UploadError> {
        self.finish_keeping(None, expected).await
    }

    /// Stores the file, unless it has at most `keep` bytes, which are returned instead.
    pub async fn finish_or_keep(self, keep: usize) -> Result<Uploaded, UploadError> {
        self.finish_keeping(Some(keep), None).await
    }

    async fn finish_keeping(mut self, keep: Option<usize>, expected: Option<&str>) -> Result<Uploaded, UploadError> {
        let sha256 = hex(&std::mem::take(&mut self.hash).finalize());
        let uploaded = Uploaded { sha256, size: self.size, data: None };
        if expected.is_some_and(|expected| expected != uploaded.sha256) {
            self.discard().await;
            return Err(UploadError::Mismatch(uploaded.sha256));
        }
        if self.is_only_hashed {
            return Ok(uploaded);
        }
        if self.stored.is_some()
            && let Err(error) = self.store_chunk().await
        {
            self.discard().await;
            return Err(error);
        }
        let Self { blobs: store, tenant, mut buffer, stored, .. } = self;
        if let Some(upload) = stored {
            let is_complete = match store.db.objects().filter(|objects| objects.is_above_threshold(uploaded.size)) {
                // Boxed, because the future is large.
                Some(objects) => Box::pin(store.move_to_object(objects, tenant, upload, &uploaded.sha256)).await?,
                None => store.complete(tenant, upload, &uploaded.sha256).await?,
            };
            return if is_complete { Ok(uploaded) } else { Err(UploadError::Incomplete) };
        }
        if keep.is_some_and(|keep| buffer.len() <= keep) {
            buffer.shrink_to_fit();
            return Ok(Uploaded { data: Some(buffer), ..uploaded });
        }
        if buffer.len() <= SMALL_BLOB_BYTES {
            let stored = store.store_small(tenant, uploaded.sha256.clone(), Arc::new(buffer), None);
            stored.await.map_err(UploadError::Db)?;
        } else if store.db.objects().is_some_and(|objects| objects.is_above_threshold(uploaded.size)) {
            store.store_large(tenant, vec![(uploaded.sha256.clone(), buffer)]).await?;
        } else {
            store.store_single_chunk(tenant, &uploaded.sha256, &buffer).await?;
        }
        Ok(uploaded)
    }

    /// Ends the upload; a worker deletes its stored chunks. The chunks of an upload that is dropped without this call
    /// are deleted once the upload has expired.
    pub async fn discard(self) {
        let Self { blobs: Blobs { db, clock, .. }, stored, .. } = self;
        if let Some(upload) = stored
            && let Err(error) = upload.discard(db, clock.now()).await
        {
            tracing::debug!(%error, "failed to discard an upload; it is deleted once it has expired");
        }
    }
}
