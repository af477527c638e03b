//! Entries of the audit log for changes that commands make. They are in the log of the default tenant, whose operators run
//! commands; the changed object may belong to another tenant.

use serde_json::Value;

use crate::clock::{Clock as _, SystemClock};
use crate::db::audit::{self, Actor, Outcome};
use crate::db::{Db, DbError};
use crate::domain::id::{AuditId, TenantId};
use crate::domain::key::KeyMode;
use crate::domain::records::audit::{AuditResult, AuditSource, recordable};

/// The environment variables that name the user, the first one that is set first: `sudo` sets the first.
const USER_VARIABLES: [&str; 3] = ["SUDO_USER", "USER", "LOGNAME"];

/// The entry of a change.
#[derive(Debug)]
pub(super) struct AuditEntry<'a> {
    db: &'a Db,
    id: AuditId,
    /// The tenant of the object.
    tenant: TenantId,
}

impl<'a> AuditEntry<'a> {
    /// Records that a command is about to change an object of a tenant. `action` is the id of the same operation of the API.
    pub(in crate::cli) async fn begin(
        db: &'a Db,
        tenant: TenantId,
        action: &str,
        object: &str,
    ) -> Result<Self, DbError> {
        let now = SystemClock.now();
        let id = AuditId::new(now);
        let name = USER_VARIABLES.into_iter().find_map(|variable| std::env::var(variable).ok());
        let actor = Actor {
            tenant: TenantId::DEFAULT,
            mode: KeyMode::Live,
            source: AuditSource::Cli,
            key: None,
            name: name.as_deref(),
            remote_address: None,
            user_agent: Some(concat!("postrider/", env!("CARGO_PKG_VERSION"))),
            request_id: None,
        };
        audit::begin(db, id, &actor, (action, Some(object)), now).await?;
        Ok(Self { db, id, tenant })
    }

    /// Records what became of the change.
    pub(in crate::cli) async fn complete<T, E>(
        self,
        result: &Result<T, E>,
        before: Option<Value>,
        after: Option<Value>,
    ) -> Result<(), DbError> {
        let word = if result.is_ok() { AuditResult::Done } else { AuditResult::Failed };
        let outcome = Outcome {
            object: None,
            before: before.map(recordable),
            after: after.map(recordable),
            tenant: Some(self.tenant).filter(|tenant| *tenant != TenantId::DEFAULT),
        };
        audit::complete(self.db, (TenantId::DEFAULT, self.id), &outcome, word, None).await
    }
}
