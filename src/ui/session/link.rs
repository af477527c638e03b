//! Links that sign in once, which `postrider dev` prints. They are kept in memory and expire after ten minutes. A link has
//! a random code, never the key.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::clock::SharedClock;
use crate::db::keys::KeyRow;
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::hex;

/// How long a link works.
const LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// The links that have not been used.
#[derive(Debug)]
pub(in crate::ui) struct SignInLinks {
    clock: SharedClock,
    unused: Mutex<HashMap<[u8; 32], Link>>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    tenant: TenantId,
    key: KeyId,
    expires_at: DateTime<Utc>,
}

impl SignInLinks {
    pub(in crate::ui) fn new(clock: SharedClock) -> Self {
        Self { clock, unused: Mutex::default() }
    }

    /// Creates a link for a key, and returns its path.
    pub(in crate::ui) fn create(&self, key: &KeyRow) -> String {
        let (code, now) = (hex(&rand::random::<[u8; 32]>()), self.clock.now());
        let link = Link { tenant: TenantId(key.tenant_id), key: KeyId(key.id), expires_at: now + LIFETIME };
        let mut unused = self.unused.lock();
        unused.retain(|_, link| link.expires_at > now);
        unused.insert(super::hash(&code), link);
        format!("/ui/login/link?code={code}")
    }

    /// Takes the link with this code, if it is unused and has not expired.
    pub(super) fn take(&self, code: &str) -> Option<(TenantId, KeyId)> {
        let link = self.unused.lock().remove(&super::hash(code))?;
        (link.expires_at > self.clock.now()).then_some((link.tenant, link.key))
    }
}
