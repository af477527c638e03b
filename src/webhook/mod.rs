//! Posts to webhook endpoints by Standard Webhooks 1.0. The only client for addresses that users of the API name: what it
//! may reach is decided by [`Guard`], at creation and again at every connection.

mod guard;
mod send;
mod sign;

pub use guard::{Denied, Guard};
pub use send::{Outcome, Post, Poster, SetupError, Verdict};
pub use sign::signature;
