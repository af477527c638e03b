//! Posts to webhook endpoints as specified by Standard Webhooks 1.0. This is the only client for addresses that API
//! users choose; [`Guard`] decides which it may reach, at creation and again at every connection.

mod guard;
mod send;
mod sign;

pub use guard::{Denied, Guard};
pub use send::{Outcome, Post, Poster, SetupError, Verdict};
pub use sign::signature;
