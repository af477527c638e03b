//! What processes cache of API keys and tenants, and how their caches learn of changes.
//!
//! Triggers note each change in the transaction that makes it: of API keys, and of what tenants allow, in `key_changes`; of other
//! settings of a tenant in `tenant_changes`. A process polls for the changes of all keys and tenants with one small statement
//! ([`poll`]), and passes them on to its caches ([`Caches`]). So a value is loaded once for as long as it is used and does not change,
//! and a change takes effect in every process within a second. The process that makes a change passes it on itself, so that it takes
//! effect there at once.

pub mod poll;

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::cache::confirmations::{Confirmations, Moment};
use crate::domain::id::TenantId;

/// Settings of a tenant that processes cache (`tenant_changes.kind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantSettings {
    /// The names of its streams in the order of their priorities, and which of them have unsubscribe links.
    Streams,
    /// The latest versions and the aliases of its published templates.
    Templates,
    /// Its sender domains: their status, their DMARC policies, and the keys that sign.
    Domains,
    /// Its inbound routes, with the servers to which they pass messages on.
    InboundRoutes,
}

impl TenantSettings {
    /// Returns the settings with this name; `None` if only a later version caches them.
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "streams" => Some(Self::Streams),
            "templates" => Some(Self::Templates),
            "domains" => Some(Self::Domains),
            "inbound_routes" => Some(Self::InboundRoutes),
            _ => None,
        }
    }
}

/// What caches have to load again, because it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outdated {
    /// API keys, and what tenants allow: their limits, their suspensions and their deletions.
    Keys,
    /// Settings of a tenant.
    Settings(TenantId, TenantSettings),
    /// Everything, because it is not known what has changed.
    Everything,
}

/// A cache of values that change.
pub trait Cached: fmt::Debug + Send + Sync {
    /// Removes outdated values. A load in progress must not store its value afterwards.
    fn forget(&self, outdated: Outdated);
}

/// The caches of a process. Each process has one `Caches`, and one task that polls ([`poll::run`]).
#[derive(Debug, Default)]
pub struct Caches {
    confirmations: Confirmations,
    caches: RwLock<Vec<Weak<dyn Cached>>>,
}

impl Caches {
    /// Adds a cache, to which changes are passed on until it is dropped. It uses the moments that [`now`](Self::now) returns.
    pub fn add<C: Cached + 'static>(&self, cache: &Arc<C>) {
        let cache: Arc<dyn Cached> = cache.clone();
        let mut caches = self.caches.write();
        caches.retain(|cache| cache.strong_count() > 0);
        caches.push(Arc::downgrade(&cache));
    }

    /// Returns the current moment for a cache, and notes that cached values are used: only then does the process poll.
    pub fn now(&self) -> Moment {
        self.confirmations.now()
    }

    /// Removes outdated values from all caches, so that a change takes effect in this process at once.
    pub fn forget(&self, outdated: Outdated) {
        for cache in self.caches.read().iter().filter_map(Weak::upgrade) {
            cache.forget(outdated);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Recorded(Mutex<Vec<Outdated>>);

    impl Cached for Recorded {
        fn forget(&self, outdated: Outdated) {
            self.0.lock().push(outdated);
        }
    }

    #[test]
    fn change_is_passed_on_to_all_caches_that_exist() {
        let caches = Caches::default();
        let [first, second, dropped] = [(); 3].map(|()| Arc::new(Recorded::default()));
        for cache in [&first, &dropped, &second] {
            caches.add(cache);
        }
        drop(dropped);
        caches.forget(Outdated::Keys);
        caches.add(&Arc::new(Recorded::default()));
        assert_eq!(caches.caches.read().len(), 3, "dropped caches are removed when another one is added");
        caches.forget(Outdated::Everything);
        for cache in [first, second] {
            assert_eq!(*cache.0.lock(), [Outdated::Keys, Outdated::Everything]);
        }
    }
}
