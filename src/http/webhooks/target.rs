//! Checks whether a webhook endpoint may have a URL when the endpoint is created or its URL changes. Every delivery
//! attempt checks again, since the host may resolve to another address by then.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use url::Url;

use crate::domain::api::fault::{Code, Fault};
use crate::http::ApiError;

type Check = dyn Fn(Url) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// Checks whether a webhook endpoint may have a URL.
#[derive(Clone)]
pub struct TargetCheck(Arc<Check>);

impl TargetCheck {
    /// Creates a check from `check`. Its error names the reason and the setting that would allow the URL, without a
    /// full stop.
    pub fn new(check: impl Fn(Url) -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    /// Fails if a webhook endpoint may not have the URL.
    pub(super) async fn admit(&self, url: &Url) -> Result<(), ApiError> {
        (self.0)(url.clone()).await.map_err(|why| {
            let message = format!("A webhook endpoint may not have this URL: {why}.");
            ApiError::Invalid(vec![Fault { pointer: "/url".into(), code: Code::DeniedAddress.as_str(), message }])
        })
    }
}

impl fmt::Debug for TargetCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TargetCheck")
    }
}
