//! Whether a URL leads somewhere that may be posted to, asked when an endpoint is made or moved. Every post asks again: a
//! name may lead elsewhere by then.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use url::Url;

use crate::domain::fault::{Code, Fault};
use crate::http::ApiError;

type Check = dyn Fn(Url) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// Answers whether a URL may be posted to, and if not, why.
#[derive(Clone)]
pub struct TargetCheck(Arc<Check>);

impl TargetCheck {
    /// Asks `check`. A refusal says why, and which setting would allow it, without a full stop.
    pub fn new(check: impl Fn(Url) -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    /// Refuses a URL that may not be posted to.
    pub(super) async fn admit(&self, url: &Url) -> Result<(), ApiError> {
        (self.0)(url.clone()).await.map_err(|why| {
            let message = format!("Nothing may be posted there: {why}.");
            ApiError::Invalid(vec![Fault { pointer: "/url".into(), code: Code::DeniedAddress.as_str(), message }])
        })
    }
}

impl fmt::Debug for TargetCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TargetCheck")
    }
}
