//! The quota of a tenant, for messages that it has sent from SQL. The transactions that sent them have been committed, so messages
//! for which too few recipients of the day are left wait. Only those that no day's quota suffices for are refused.

use chrono::{DateTime, Utc};

use super::{SqlInbox, part};
use crate::accept::AcceptError;
use crate::db::DbError;
use crate::db::keys::usage::{self, QuotaRequest};
use crate::db::messages::sql_inbox;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::TenantId;
use crate::domain::key::{KeyQuota, LimitOwner};
use crate::domain::message::NewMessage;

/// Returns the fault of a message with more recipients than the quota of a whole day. `postrider.send` refuses such a message, too, but
/// the quota may have been lowered since.
pub(super) fn fault(KeyQuota { recipients_per_day }: KeyQuota, message: &NewMessage) -> Option<Fault> {
    let recipients = message.recipients.len();
    (recipients as u64 > u64::from(recipients_per_day)).then(|| Fault {
        pointer: "/to".into(),
        code: Code::DailyQuotaExceeded.as_str(),
        message: format!(
            "the message has {recipients} recipients, and the tenant may send to {recipients_per_day} per day (UTC); \
             use several messages, or raise the quota"
        ),
    })
}

impl SqlInbox {
    /// Inserts those of the messages that fit into the rest of the quota, and lets the others wait.
    pub(super) async fn insert_within(
        &self,
        tenant: TenantId,
        quota: KeyQuota,
        messages: Vec<NewMessage>,
        claimed_until: DateTime<Utc>,
    ) -> Result<(), AcceptError> {
        let recipients: u64 = messages.iter().map(|message| message.recipients.len() as u64).sum();
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
}
