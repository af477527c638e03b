//! Posts to webhook endpoints as specified by Standard Webhooks 1.0. API users choose the URLs of endpoints, so a
//! [`Guard`](crate::url_guard::Guard) decides which addresses are allowed, when an endpoint is created and at every
//! connection.

mod send;
mod sign;

pub use send::{Outcome, Post, Poster, SetupError, Verdict};
pub use sign::signature;
