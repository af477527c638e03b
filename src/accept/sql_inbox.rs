//! Accepts the messages that applications send with `postrider.send` in transactions of their own, in the background of
//! every process with the API.
//!
//! The function validates a message and inserts a row into `sql_inbox`. A process claims rows for a few seconds, parses
//! them as bodies of `POST /v1/messages`, and inserts their messages through the writer of batches, in the transaction that
//! deletes the rows. So each row becomes exactly one message, whenever a process dies.
//!
//! Nothing notifies a process of a row: a NOTIFY would serialise the application's commits. Processes poll, often while
//! rows come in, and otherwise together with other tasks ([`WorkPoll`](super::work_poll::WorkPoll)). A row of a transaction
//! that commits late is found by a poll that begins with the oldest row; the polls between look only at new rows.
//!
//! Rows that wait for a quota, or for a suspended tenant, are not read again until their tenant may send.

mod pace;
mod parse;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{AcceptError, Acceptor};
use crate::clock::SharedClock;
use crate::db::keys::usage::{self, QuotaRequest};
use crate::db::messages::insert::batch::BatchCommitted;
use crate::db::messages::sql_inbox::{self, ClaimScope, EnqueuedPart, EnqueuedRow, SendSettings, rejected};
use crate::db::{DbError, RestoreGate};
use crate::domain::fault::{Code, Fault};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::key::{KeyQuota, LimitOwner};
use crate::domain::message::NewMessage;
use crate::telemetry::RateLimitedLog;

use pace::{Pace, Pause, Scan};

/// Accepts enqueued messages.
#[derive(Debug)]
pub struct SqlInbox {
    acceptor: Arc<Acceptor>,
    clock: SharedClock,
    gate: Arc<RestoreGate>,
    settings: SendSettings,
}

impl SqlInbox {
    /// Creates the task of a process. `postrider.send` applies the `settings`. While the `gate` is closed, no messages are
    /// accepted: in a restored database they may have been accepted, and sent, before.
    pub fn new(acceptor: Arc<Acceptor>, clock: SharedClock, gate: Arc<RestoreGate>, settings: SendSettings) -> Self {
        Self { acceptor, clock, gate, settings }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let failed = RateLimitedLog::default();
        let mut pace = Pace::new(Instant::now());
        let mut has_settings = false;
        while !stop.is_cancelled() {
            let is_open = self.gate.is_open();
            let turn = async {
                if !is_open {
                    return Ok(());
                }
                if !has_settings {
                    sql_inbox::store_settings(&self.acceptor.db, &self.settings).await?;
                    has_settings = true;
                }
                Box::pin(self.turn(&mut pace)).await
            };
            let error = match AssertUnwindSafe(turn).catch_unwind().await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("it panicked".into()),
            };
            if let Some(error) = &error
                && let Some(times) = failed.note(tokio::time::Instant::now())
            {
                tracing::warn!(
                    event = "sql_inbox_failed",
                    error,
                    times,
                    "failed to accept messages sent from SQL; trying again"
                );
            }
            match pace.pause(Instant::now(), !is_open || error.is_some()) {
                Pause::For(Duration::ZERO) => {}
                Pause::For(pause) => tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                },
                Pause::UntilWoken(at_most) => tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.acceptor.sql_inbox_wake.notified() => pace.wake(Instant::now()),
                    () = tokio::time::sleep(at_most) => {}
                },
            }
        }
    }

    /// Claims some rows, and accepts their messages.
    async fn turn(&self, pace: &mut Pace) -> Result<(), AcceptError> {
        let started = Instant::now();
        let scan = pace.next(started);
        if scan == Scan::AndOrphans {
            sql_inbox::remove_of_deleted_tenants(&self.acceptor.db).await?;
        }
        let now = self.clock.now();
        let claimed_until = now + pace.claim();
        let scope = if scan == Scan::New { ClaimScope::Since(now - pace::NEW) } else { ClaimScope::All };
        let rows = match scope {
            ClaimScope::Since(from) if !sql_inbox::has_ready(&self.acceptor.db, from, now).await? => Vec::new(),
            _ => sql_inbox::claim(&self.acceptor.db, scope, now, claimed_until).await?,
        };
        pace.note(scan, rows.len(), started.elapsed(), Instant::now());
        let mut by_tenant = BTreeMap::<TenantId, Vec<EnqueuedRow>>::new();
        for row in rows {
            by_tenant.entry(TenantId(row.tenant_id)).or_default().push(row);
        }
        let accepted = by_tenant.into_iter().map(|(tenant, rows)| self.accept_all(tenant, rows, claimed_until));
        let accepted = join_all(accepted).await;
        pace.note_turn(started.elapsed());
        accepted.into_iter().collect()
    }

    /// Accepts the messages of claimed rows of a tenant.
    async fn accept_all(
        &self,
        tenant: TenantId,
        mut rows: Vec<EnqueuedRow>,
        claimed_until: DateTime<Utc>,
    ) -> Result<(), AcceptError> {
        rows.sort_unstable_by_key(|row| row.id);
        if rows.iter().any(|row| row.is_suspended) {
            let part = EnqueuedPart { tenant, messages: rows.iter().map(|row| row.id).collect(), claimed_until };
            return Ok(sql_inbox::wait_for_tenant(&self.acceptor.db, &part).await?);
        }
        let quota = KeyQuota::from_row(rows.iter().find_map(|row| row.recipients_per_day));
        let mut messages = Vec::with_capacity(rows.len());
        for row in rows {
            let id = MessageId(row.id);
            match self.parse(tenant, &row).await? {
                Ok(message) => messages.push(message),
                Err(faults) => self.refuse((tenant, id), claimed_until, &faults).await?,
            }
        }
        if messages.is_empty() {
            return Ok(());
        }
        let recipients: u64 = messages.iter().map(|message| message.recipients.len() as u64).sum();
        let Some(quota) = quota else { return self.insert(tenant, messages, claimed_until).await.map(drop) };
        if self.take_quota(tenant, quota, recipients).await? {
            return self.insert_counted(tenant, messages, claimed_until, recipients).await;
        }
        if messages.len() == 1 {
            return Ok(self.wait_for_quota(tenant, &messages, claimed_until).await?);
        }
        // Fewer recipients may fit.
        let (mut postponed, mut too_many) = (Vec::new(), u64::MAX);
        for message in messages {
            let recipients = message.recipients.len() as u64;
            if recipients < too_many && self.take_quota(tenant, quota, recipients).await? {
                self.insert_counted(tenant, vec![message], claimed_until, recipients).await?;
            } else {
                too_many = too_many.min(recipients);
                postponed.push(message);
            }
        }
        Ok(self.wait_for_quota(tenant, &postponed, claimed_until).await?)
    }

    /// Lets rows wait for the quota of their tenant.
    async fn wait_for_quota(
        &self,
        tenant: TenantId,
        messages: &[NewMessage],
        claimed_until: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let count = |message: &NewMessage| i32::try_from(message.recipients.len()).unwrap_or(i32::MAX);
        let recipients: Vec<i32> = messages.iter().map(count).collect();
        sql_inbox::wait_for_quota(&self.acceptor.db, &part(tenant, messages, claimed_until), &recipients).await
    }

    /// Takes recipients from the quota of a tenant. Returns `false`, without taking any, if too few are left.
    async fn take_quota(&self, tenant: TenantId, quota: KeyQuota, recipients: u64) -> Result<bool, DbError> {
        let (owner, now) = (LimitOwner::Tenant(tenant), self.clock.now());
        let request = QuotaRequest { tenant, owner, quota, needed: recipients, unused: 0, now };
        let lease = usage::lease_recipients(&self.acceptor.db, &request).await?;
        let unused = lease.recipients.saturating_sub(recipients);
        if unused > 0 {
            usage::release_recipients(&self.acceptor.db, owner, now.date_naive(), unused).await?;
        }
        Ok(lease.recipients >= recipients)
    }

    /// Inserts messages whose recipients were taken from the quota, and returns those of messages that were not inserted to it.
    async fn insert_counted(
        &self,
        tenant: TenantId,
        messages: Vec<NewMessage>,
        claimed_until: DateTime<Utc>,
        recipients: u64,
    ) -> Result<(), AcceptError> {
        let today = self.clock.now().date_naive();
        let result = self.insert(tenant, messages, claimed_until).await;
        let unused = match &result {
            Ok(inserted) => recipients.saturating_sub(*inserted),
            Err(error) if error.may_be_done() => 0,
            Err(_) => recipients,
        };
        if unused > 0 {
            usage::release_recipients(&self.acceptor.db, LimitOwner::Tenant(tenant), today, unused).await?;
        }
        result.map(drop)
    }

    /// Inserts messages and deletes their rows, in one transaction. Returns the number of inserted recipients: none if another
    /// process has claimed one of the rows. Messages that the database refuses are found by inserting one after the other, and are
    /// kept as refused; those with an attachment that the object store cannot take are found in the same way, and are left.
    async fn insert(
        &self,
        tenant: TenantId,
        messages: Vec<NewMessage>,
        claimed_until: DateTime<Utc>,
    ) -> Result<u64, AcceptError> {
        let recipients: u64 = messages.iter().map(|message| message.recipients.len() as u64).sum();
        let ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
        let copies = if ids.len() > 1 { messages.clone() } else { Vec::new() };
        match self.insert_batch(tenant, messages, claimed_until).await {
            Err(error) if is_refused(&error) => {
                if let [id] = ids[..] {
                    let fault = Fault {
                        pointer: String::new(),
                        code: Code::InvalidValue.as_str(),
                        message: "the database refused the message; the log has the reason".into(),
                    };
                    tracing::error!(
                        event = "sql_message_not_stored",
                        message = %id,
                        %tenant,
                        %error,
                        "the database refused a message sent from SQL; keeping it in sql_inbox as refused"
                    );
                    self.refuse((tenant, id), claimed_until, &[fault]).await?;
                    return Ok(0);
                }
            }
            // Messages without large attachments do not wait for the object store. The others are tried again when their
            // claim ends.
            Err(AcceptError::Objects(_) | AcceptError::FileDeleted) if ids.len() == 1 => return Ok(0),
            Err(AcceptError::Objects(_) | AcceptError::FileDeleted) => {}
            result => return Ok(if result? { recipients } else { 0 }),
        }
        let mut inserted = 0;
        for message in copies {
            // Boxed, because the function calls itself.
            inserted += Box::pin(self.insert(tenant, vec![message], claimed_until)).await?;
        }
        Ok(inserted)
    }

    async fn insert_batch(
        &self,
        tenant: TenantId,
        messages: Vec<NewMessage>,
        claimed_until: DateTime<Utc>,
    ) -> Result<bool, AcceptError> {
        let part = part(tenant, &messages, claimed_until);
        let new = messages.into_iter().map(|message| (message, None)).collect();
        let mut batch = self.acceptor.prepare((tenant, None), new, None).await?;
        batch.enqueued = Some(part);
        let committed = self.acceptor.group_commit.accept_batch(batch).await.map_err(AcceptError::Db)?;
        Ok(matches!(committed, BatchCommitted::Inserted(_)))
    }

    /// Keeps a row as refused, unless it is no longer claimed.
    async fn refuse(
        &self,
        (tenant, message): (TenantId, MessageId),
        claimed_until: DateTime<Utc>,
        faults: &[Fault],
    ) -> Result<(), DbError> {
        let now = self.clock.now();
        if rejected::refuse(&self.acceptor.db, (tenant, message), claimed_until, faults, now).await? {
            let first = faults.first();
            tracing::error!(
                event = "sql_message_refused",
                %message,
                %tenant,
                pointer = first.map(|fault| fault.pointer.as_str()),
                code = first.map(|fault| fault.code),
                "refused a message sent from SQL, which its validation should have done; keeping it in sql_inbox"
            );
        }
        Ok(())
    }
}

fn part(tenant: TenantId, messages: &[NewMessage], claimed_until: DateTime<Utc>) -> EnqueuedPart {
    EnqueuedPart { tenant, messages: messages.iter().map(|message| message.id.0).collect(), claimed_until }
}

/// Returns whether the database refused the statement, so that another try would fail too.
fn is_refused(error: &AcceptError) -> bool {
    matches!(error, AcceptError::Db(error) if matches!(**error, DbError::Refused { .. }))
}
