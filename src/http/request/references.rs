//! The uploaded files, parts of a form, and templates that the messages of a request refer to. Parsing has no access to
//! the database, so a request that refers to files or templates is parsed again once they have been looked up.

use crate::accept::request::files::Files;
use crate::accept::request::message::render::{TemplateRef, Templates};
use crate::accept::request::{Context, Rejection};
use crate::http::auth::Caller;
use crate::http::limits::concurrency_limit::{ConcurrencyPermit, RENDERS_OF_BATCH};
use crate::http::limits::memory_limit::Reservation;
use crate::http::{Api, ApiError};

/// The files and templates that the messages of a request refer to.
#[derive(Debug, Default)]
pub(in crate::http) struct References {
    pub files: Files,
    templates: Templates,
    /// The permission to render expensive templates.
    permit: Option<ConcurrencyPermit>,
}

impl References {
    /// Creates the references of a request with these files.
    pub(in crate::http) fn new(files: Files) -> Self {
        Self { files, ..Self::default() }
    }

    /// Returns a context with the files and templates.
    pub(in crate::http) fn context<'a>(&'a self, context: Context<'a>) -> Context<'a> {
        Context { files: &self.files, templates: &self.templates, ..context }
    }

    /// Returns whether a request must be parsed on a blocking thread because of its templates.
    pub(in crate::http) fn is_expensive(&self) -> bool {
        self.permit.is_some()
    }

    /// Looks up the files or templates without which a request was rejected; `messages` is the number of its messages.
    /// Fails if the request was rejected for another reason.
    pub(in crate::http) async fn look_up(
        &mut self,
        api: &Api,
        caller: &Caller,
        rejection: Rejection,
        messages: usize,
    ) -> Result<(), ApiError> {
        match rejection {
            Rejection::NeedsBlobs(digests) if self.files.blobs.is_none() => {
                self.files.blobs = Some(api.acceptor.find_blobs(caller.tenant(), &digests).await?);
                Ok(())
            }
            Rejection::NeedsTemplates(names) if !self.templates.are_loaded() => {
                self.load_templates(api, caller, names, messages).await
            }
            rejection => Err(rejection.into()),
        }
    }

    async fn load_templates(
        &mut self,
        api: &Api,
        caller: &Caller,
        names: Vec<TemplateRef>,
        messages: usize,
    ) -> Result<(), ApiError> {
        // The permit is acquired before the templates of a batch are loaded, because they may take much memory.
        if messages > 1 {
            self.permit = Some(api.renders.acquire_many(caller.requester(), RENDERS_OF_BATCH).await?);
        }
        self.templates = api.acceptor.templates().load(caller.live_tenant(), names).await?;
        if self.permit.is_none() && !self.templates.are_cheap() {
            self.permit = Some(api.renders.acquire(caller.requester()).await?);
        }
        Ok(())
    }

    /// Frees the files and templates, and reserves memory for the rendered text. The caller holds the reservation until
    /// the text is stored.
    pub(in crate::http) async fn finish(self, api: &Api, caller: &Caller) -> Result<Option<Reservation>, ApiError> {
        // The permit bounds the memory of the rendered text until that memory is reserved.
        let Self { templates, permit: _permit, .. } = self;
        match templates.rendered_bytes() {
            0 => Ok(None),
            // Boxed, because most requests render nothing.
            bytes => Box::pin(api.bodies.reserve_rendered(Some(caller.requester()), bytes)).await,
        }
    }
}
