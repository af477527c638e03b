//! Parses the payload of an enqueued message, as the body of `POST /v1/messages`.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::accept::request::files::Files;
use crate::accept::request::message::render::Templates;
use crate::accept::request::{self, Context, Limits, Rejection};
use crate::accept::{AcceptError, Acceptor};
use crate::db::messages::sql_inbox::EnqueuedRow;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::NewMessage;

/// `postrider.send` has applied the limits of the installation, which may have changed since.
const LIMITS: Limits = Limits {
    recipients: 100_000,
    attachments: 100_000,
    attachment_bytes: u64::MAX,
    headers: 100_000,
    tags: 100_000,
    schedule_ahead: TimeDelta::days(36_500),
    simulator: true,
};

impl Acceptor {
    /// Parses a row. Returns its message, or its faults.
    pub(super) async fn parse_enqueued(
        &self,
        tenant: TenantId,
        row: &EnqueuedRow,
        now: DateTime<Utc>,
    ) -> Result<Result<NewMessage, Vec<Fault>>, AcceptError> {
        match self.parse_once(tenant, row, now).await? {
            Err(_) => {
                // The caches may be a second old, and the function has seen the current streams and templates.
                self.forget_settings(tenant);
                self.parse_once(tenant, row, now).await
            }
            parsed => Ok(parsed),
        }
    }

    async fn parse_once(
        &self,
        tenant: TenantId,
        row: &EnqueuedRow,
        now: DateTime<Utc>,
    ) -> Result<Result<NewMessage, Vec<Fault>>, AcceptError> {
        let streams: Arc<[String]> = self.streams(tenant).await?;
        // Times are compared with that of the call, so that a message whose `expires_at` has passed meanwhile expires.
        let sent_at = row.created_at.min(now);
        let (mut files, mut templates) = (Files::default(), Templates::default());
        loop {
            let (payload, streams) = (row.payload.clone(), streams.clone());
            // A payload may be large, and a template expensive.
            let work = tokio::task::spawn_blocking(move || {
                let context =
                    Context { files: &files, templates: &templates, ..Context::new(sent_at, &LIMITS, &streams) };
                let parsed = request::parse(payload.as_bytes(), &context);
                (parsed, files, templates)
            });
            let Ok((parsed, known_files, known_templates)) = work.await else {
                return Ok(Err(vec![fault("parsing the message failed; this is a bug of Postrider")]));
            };
            (files, templates) = (known_files, known_templates);
            match parsed {
                Ok(mut message) => {
                    message.id = MessageId(row.id);
                    // The function has checked that the earlier message exists. If it was deleted meanwhile, this one is sent
                    // without the headers of a reply.
                    self.set_thread_headers(tenant, &mut message, |_| true).await?;
                    return Ok(Ok(message));
                }
                Err(Rejection::NeedsBlobs(digests)) if files.blobs.is_none() => {
                    files.blobs = Some(self.find_blobs(tenant, &digests).await?);
                }
                Err(Rejection::NeedsTemplates(names)) if !templates.are_loaded() => {
                    templates = self.templates().load(tenant.live(), names).await?;
                }
                Err(Rejection::Invalid(faults)) => return Ok(Err(faults)),
                Err(rejection) => return Ok(Err(vec![fault(&rejection.to_string())])),
            }
        }
    }
}

/// Returns a fault of the whole message.
fn fault(message: &str) -> Fault {
    Fault { pointer: String::new(), code: Code::InvalidValue.as_str(), message: message.to_owned() }
}
