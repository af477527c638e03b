//! Limits on concurrency.
//!
//! - [`KeyedSemaphore`]: in total and per key, so that one key cannot use up everything;
//! - [`ReservedSemaphore`]: with a part that only urgent users may use;
//! - [`peers`]: counts the connections of each client.
//!
//! All of them serve waiting callers in the order of their arrival.

mod keyed;
pub mod peers;
mod reserved;

pub use keyed::{KeyedPermit, KeyedSemaphore};
pub use reserved::{ReservedPermit, ReservedSemaphore};
