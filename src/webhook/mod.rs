//! Posts to webhook endpoints as specified by Standard Webhooks 1.0. API users choose the URLs of endpoints, so
//! [`Guard`] decides which addresses are allowed, when an endpoint is created and at every connection.

mod guard;
mod send;
mod sign;

pub use guard::{Denied, Guard};
pub use send::{Outcome, Post, Poster, SetupError, Verdict};
pub use sign::signature;
