//! Limits on concurrency.
//!
//! - [`KeyedSemaphore`]: limits permits in total and per key, so that one key cannot use up everything;
//! - [`ReservedSemaphore`]: reserves a part of the permits for urgent users;
//! - [`peers`]: counts the connections of each client.
//!
//! Both semaphores serve waiting callers in the order of their arrival.

mod keyed;
pub mod peers;
mod reserved;

pub use keyed::{KeyedPermit, KeyedSemaphore};
pub use reserved::{ReservedPermit, ReservedSemaphore};
