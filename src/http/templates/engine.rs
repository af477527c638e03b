//! Runs the template engine on blocking threads, a bounded number at once.

use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use super::view::RenderedView;
use super::{Api, ApiError};
use crate::accept::templates::source_from_row;
use crate::db::templates::SourceRow;
use crate::domain::api::fault::Fault;
use crate::domain::id::TenantId;
use crate::http::auth::Caller;
use crate::template::{self, Compiled, Layouts, Program, Report, Source};

/// A source with its layouts, ready to compile.
#[derive(Debug)]
pub(super) struct Loaded {
    pub source: Source,
    pub layouts: Layouts,
}

impl Loaded {
    /// Loads the layouts of a source. `own_names` are the template's id and alias, if it is stored. The inner error lists
    /// the faults of a source that cannot be scanned.
    pub(super) async fn new(
        api: &Api,
        tenant: TenantId,
        row: &SourceRow,
        own_names: &[&str],
    ) -> Result<Result<Self, Vec<Fault>>, ApiError> {
        let Some(source) = source_from_row(row) else {
            tracing::error!(event = "draft_unreadable", "cannot read a template; returned 500");
            return Err(ApiError::Internal);
        };
        let layouts = api.acceptor.templates().layouts(tenant, &source, own_names).await?;
        Ok(layouts.map(|layouts| Self { source, layouts }))
    }

    /// Compiles the template; fails with all faults.
    pub(super) async fn compile(self, api: &Api, caller: &Caller) -> Result<Compiled, ApiError> {
        let _permit = api.renders.acquire(caller.requester()).await?;
        let compiled = spawn_blocking(move || template::compile(&self.source, &self.layouts)).await;
        compiled.map_err(|_| ApiError::Internal)?.map_err(ApiError::Invalid)
    }

    /// Returns the faults, warnings and variables of the template, and renders it with `values`, or with suggested
    /// values if there are none. A template with faults is not rendered.
    pub(super) async fn validate(
        self,
        api: &Api,
        caller: &Caller,
        values: Option<Map<String, Value>>,
    ) -> Result<(Report, Option<Result<RenderedView, Vec<Fault>>>), ApiError> {
        let _permit = api.renders.acquire(caller.requester()).await?;
        let work = move || {
            let is_given = values.is_some();
            let mut values = values.unwrap_or_default();
            let report = template::validate(&self.source, &self.layouts, &values);
            if !is_given {
                values.clone_from(&report.suggested_variables);
            }
            let rendered = report.compiled.as_ref().map(|compiled| render_compiled(compiled, &values));
            (report, rendered)
        };
        spawn_blocking(work).await.map_err(|_| ApiError::Internal)
    }
}

/// Renders a compiled template; fails with all faults.
pub(super) async fn render(
    api: &Api,
    caller: &Caller,
    compiled: Compiled,
    variables: Map<String, Value>,
) -> Result<RenderedView, ApiError> {
    let _permit = api.renders.acquire(caller.requester()).await?;
    let work = move || {
        let mut rendered = render_compiled(&compiled, &variables)?;
        rendered.warnings.splice(0..0, compiled.warnings);
        Ok(rendered)
    };
    spawn_blocking(work).await.map_err(|_| ApiError::Internal)?.map_err(ApiError::Invalid)
}

fn render_compiled(compiled: &Compiled, variables: &Map<String, Value>) -> Result<RenderedView, Vec<Fault>> {
    let program = Program::new(compiled)?;
    let checked = program.check(variables)?;
    let parts = program.render(&checked).map_err(|fault| vec![fault])?;
    Ok(RenderedView::new(parts, checked.warnings))
}
