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

mod cancel;
mod pace;
mod parse;
mod quota;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::poll_loop::{self, Next, PollLoop};
use crate::accept::{AcceptError, Acceptor};
use crate::clock::SharedClock;
use crate::db::messages::insert::batch::BatchSource;
use crate::db::messages::sql_inbox::rejected::{self, Refusal};
use crate::db::messages::sql_inbox::{self, ClaimScope, EnqueuedPart, EnqueuedRow, SendSettings};
use crate::db::{DbError, RestoreGate};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::key::KeyQuota;
use crate::domain::message::NewMessage;

use pace::{Pace, Scan};

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
        let (acceptor, gate) = (self.acceptor.clone(), self.gate.clone());
        let task = InboxTask { inbox: self, pace: Pace::new(Instant::now()), has_settings: false };
        poll_loop::run(task, &gate, &acceptor.sql_inbox_wake, &stop).await;
    }

    /// Claims some rows, and accepts their messages.
    async fn accept_some(&self, pace: &mut Pace) -> Result<(), AcceptError> {
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
        let (mut messages, mut refused) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match self.acceptor.parse_enqueued(tenant, &row, self.clock.now()).await? {
                Ok(message) => match quota.and_then(|quota| quota::fault(quota, &message)) {
                    Some(fault) => refused.push(Refusal { message: message.id, faults: vec![fault] }),
                    None => messages.push(message),
                },
                Err(faults) => refused.push(Refusal { message: MessageId(row.id), faults }),
            }
        }
        self.acceptor.refuse_enqueued(tenant, claimed_until, &refused, self.clock.now()).await?;
        match quota {
            _ if messages.is_empty() => Ok(()),
            Some(quota) => self.insert_within(tenant, quota, messages, claimed_until).await,
            None => self.insert(tenant, messages, claimed_until).await.map(drop),
        }
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
        let source = BatchSource::Enqueued(part(tenant, &messages, claimed_until));
        let inserted = async {
            let batch = self.acceptor.prepare_from(tenant, messages, source).await?;
            self.acceptor.insert_prepared(batch).await
        };
        match inserted.await {
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
                    let refusal = Refusal { message: id, faults: vec![fault] };
                    self.acceptor.refuse_enqueued(tenant, claimed_until, &[refusal], self.clock.now()).await?;
                    return Ok(0);
                }
            }
            // Messages without large attachments do not wait for the object store. The others are tried again when their
            // claim ends.
            Err(AcceptError::Objects(_) | AcceptError::FileDeleted | AcceptError::FileIncomplete) => {
                if ids.len() == 1 {
                    return Ok(0);
                }
            }
            result => return Ok(if result? { recipients } else { 0 }),
        }
        let mut inserted = 0;
        for message in copies {
            // Boxed, because the function calls itself.
            inserted += Box::pin(self.insert(tenant, vec![message], claimed_until)).await?;
        }
        Ok(inserted)
    }
}

impl Acceptor {
    /// Keeps rows as refused, unless they are no longer claimed.
    async fn refuse_enqueued(
        &self,
        tenant: TenantId,
        claimed_until: DateTime<Utc>,
        refusals: &[Refusal],
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let refused = rejected::refuse(&self.db, tenant, claimed_until, refusals, now).await?;
        let is_above_quota = |refusal: &&Refusal| {
            refusal.faults.first().is_some_and(|fault| fault.code == Code::DailyQuotaExceeded.as_str())
        };
        let (above_quota, invalid): (Vec<&Refusal>, Vec<&Refusal>) =
            refusals.iter().filter(|refusal| refused.contains(&refusal.message)).partition(is_above_quota);
        if let Some(Refusal { message, .. }) = above_quota.first() {
            // After a quota was lowered, there may be thousands of such messages.
            tracing::warn!(
                event = "sql_message_above_quota",
                count = above_quota.len(),
                %message,
                %tenant,
                "refused messages sent from SQL, which have more recipients than the tenant's quota of a day; keeping them in sql_inbox"
            );
        }
        for Refusal { message, faults } in invalid {
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

/// The task with its state.
#[derive(Debug)]
struct InboxTask {
    inbox: SqlInbox,
    pace: Pace,
    /// Whether the settings are stored.
    has_settings: bool,
}

impl PollLoop for InboxTask {
    const FAILURE_PAUSE: Duration = Duration::from_secs(1);

    async fn process_claimed(&mut self, _: &CancellationToken) -> Result<Next, String> {
        let Self { inbox, pace, has_settings } = self;
        if !*has_settings {
            let stored = sql_inbox::store_settings(&inbox.acceptor.db, &inbox.settings).await;
            stored.map_err(|error| error.to_string())?;
            *has_settings = true;
        }
        inbox.accept_some(pace).await.map_err(|error| error.to_string())?;
        Ok(pace.after(Instant::now()))
    }

    fn woken(&mut self) {
        self.pace.wake(Instant::now());
    }

    fn log_failure(error: &str, times: u64) {
        tracing::warn!(
            event = "sql_inbox_failed",
            error,
            times,
            "failed to accept messages sent from SQL; trying again"
        );
    }
}

fn part(tenant: TenantId, messages: &[NewMessage], claimed_until: DateTime<Utc>) -> EnqueuedPart {
    EnqueuedPart { tenant, messages: messages.iter().map(|message| message.id.0).collect(), claimed_until }
}

/// Returns whether the database refused the statement, so that another try would fail too.
fn is_refused(error: &AcceptError) -> bool {
    matches!(error, AcceptError::Db(error) if matches!(**error, DbError::Refused { .. }))
}
