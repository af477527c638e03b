//! Loads templates for requests: by id or alias, at a version, ready to render. What has been loaded is used until it changes:
//! versions never do, and names that lead to other versions are noticed within a second ([`crate::db::changes`]).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::request::message::render::{Lookup, MAX_TEMPLATE_MEMORY, MAX_TEMPLATES, TemplateRef, Templates};
use super::request::resources::template::ContentChange;
use crate::batcher::{Lookups, Pending};
use crate::cache::TtlCache;
use crate::cache::confirmations::{MAX_UNCONFIRMED, Moment};
use crate::db::changes::{Cached, Caches, Outdated, TenantSettings};
use crate::db::templates::SourceRow;
use crate::db::templates::versions::{self, LatestRow};
use crate::db::{Db, DbError};
use crate::domain::api::fault::Fault;
use crate::domain::id::{TemplateId, TenantId};
use crate::domain::message::template::{TemplateName, TemplateVersion};
use crate::template::{Compiled, Format, Layout, Layouts, Program, ProgramCache, Source, Syntax};

/// Maximum number of cached names, and of tenants that have some.
const MAX_CACHED_NAMES: usize = 10_000;
/// Memory for cached programs, in bytes.
const PROGRAM_MEMORY: u64 = 64 << 20;

const LOOKUP: &str = "template_versions.latest";

/// A name in a tenant.
type Key = (TenantId, TemplateName);

/// Loads and caches the templates of all tenants. Each process has one `TemplateStore`.
#[derive(Debug)]
pub struct TemplateStore {
    db: Db,
    programs: Arc<ProgramCache>,
    /// Templates with a published version.
    latest: Cache<Key, Published>,
    /// The generation of each tenant's names: those of earlier ones are not used any more.
    generations: TtlCache<TenantId, u64, Moment>,
    last_generation: AtomicU64,
    caches: Arc<Caches>,
    lookups: Lookups<Key, LatestRow, DbError>,
}

/// The latest version of a template.
#[derive(Debug, Clone, Copy)]
struct Published {
    template: TemplateId,
    version: i32,
    /// The generation of the tenant's names when the load began.
    generation: u64,
}

/// Why the latest version of a template cannot be used.
enum NotUsable {
    Unknown,
    NotPublished,
    Db(Arc<DbError>),
}

impl TemplateStore {
    /// Starts the tasks that look up names; they end when this is dropped.
    pub(super) fn start(db: Db, caches: Arc<Caches>, tasks: &TaskTracker) -> Arc<Self> {
        let shared = db.clone();
        let run = move |pending| find(shared.clone(), pending);
        let store = Arc::new(Self {
            db,
            programs: Arc::new(ProgramCache::new(PROGRAM_MEMORY)),
            latest: Cache::new(MAX_CACHED_NAMES),
            generations: TtlCache::new(MAX_CACHED_NAMES, MAX_UNCONFIRMED),
            last_generation: AtomicU64::new(0),
            caches,
            lookups: Lookups::start(tasks, || DbError::closed(LOOKUP), run),
        });
        store.caches.add(&store);
        store
    }

    /// Loads the templates that a request names. Those above the limits of a request are not loaded:
    /// [`Lookup::TooMany`].
    pub async fn load(&self, tenant: TenantId, wanted: Vec<TemplateRef>) -> Result<Templates, Arc<DbError>> {
        let mut loaded = BTreeMap::new();
        let mut bytes = 0;
        for template in wanted {
            let mut lookup = Lookup::TooMany;
            if loaded.len() < MAX_TEMPLATES && bytes <= MAX_TEMPLATE_MEMORY {
                lookup = self.look_up(tenant, &template).await?;
            }
            if let Lookup::Found { program, .. } = &lookup {
                bytes += program.bytes();
            }
            loaded.insert(template, lookup);
        }
        Ok(Templates::new(loaded))
    }

    async fn look_up(&self, tenant: TenantId, template: &TemplateRef) -> Result<Lookup, Arc<DbError>> {
        let latest = match self.latest(tenant, &template.name).await {
            Ok(latest) => latest,
            Err(NotUsable::Unknown) => return Ok(Lookup::Unknown),
            Err(NotUsable::NotPublished) => return Ok(Lookup::NotPublished),
            Err(NotUsable::Db(error)) => return Err(error),
        };
        let version = template.version.unwrap_or(latest.version);
        let which = TemplateVersion { template: latest.template, version };
        if let Some(program) = self.programs.get(which.template, which.version) {
            return Ok(Lookup::Found { which, program });
        }
        let Some(compiled) = versions::compiled(&self.db, tenant, which).await.map_err(Arc::new)? else {
            if template.version.is_none() {
                // The template was deleted after its name was cached.
                self.generations.remove(&tenant);
                return Ok(Lookup::Unknown);
            }
            return Ok(Lookup::UnknownVersion { latest: latest.version });
        };
        let Some(program) = program(compiled).await else {
            tracing::error!(
                event = "template_unreadable",
                template = %which.template,
                version = which.version,
                "cannot read a published template; refusing messages with it"
            );
            return Ok(Lookup::Unreadable);
        };
        Ok(Lookup::Found { which, program: self.programs.insert(which.template, which.version, program) })
    }

    async fn latest(&self, tenant: TenantId, name: &TemplateName) -> Result<Published, NotUsable> {
        let generation = self.generation(tenant).await;
        let key = (tenant, name.clone());
        if let Some(published) = self.latest.get(&key).filter(|published| published.generation == generation) {
            return Ok(published);
        }
        match self.lookups.find(key.clone()).await.map_err(NotUsable::Db)? {
            // Only published templates are cached, so that a template can be used as soon as it is published.
            Some(LatestRow { template, version: Some(version) }) => {
                let published = Published { template, version, generation };
                self.latest.insert(key, published);
                Ok(published)
            }
            Some(LatestRow { version: None, .. }) => Err(NotUsable::NotPublished),
            None => Err(NotUsable::Unknown),
        }
    }

    /// Returns the generation of a tenant's names; a new one if they have changed.
    async fn generation(&self, tenant: TenantId) -> u64 {
        let next = || ready(Ok::<_, Infallible>(self.last_generation.fetch_add(1, Ordering::Relaxed)));
        let Ok(generation) = self.generations.get_or_load(&tenant, self.caches.now(), next).await;
        generation
    }

    /// Loads the layouts of a template. `own_names` are its id and its alias, if it is stored. The inner error lists the
    /// faults of a source that cannot be scanned.
    pub async fn layouts(
        &self,
        tenant: TenantId,
        source: &Source,
        own_names: &[&str],
    ) -> Result<Result<Layouts, Vec<Fault>>, DbError> {
        let mut layouts = match Layouts::new(source, own_names) {
            Ok(layouts) => layouts,
            Err(faults) => return Ok(Err(faults)),
        };
        loop {
            let missing = layouts.missing();
            if missing.is_empty() {
                return Ok(Ok(layouts));
            }
            for name in missing {
                let row = match name.parse() {
                    Ok(parsed) => versions::layout(&self.db, tenant, &parsed).await?,
                    Err(_) => None,
                };
                layouts.insert(&name, row.as_ref().and_then(source_from_row).map(|source| Layout { source }));
            }
        }
    }
}

impl Cached for TemplateStore {
    fn forget(&self, outdated: Outdated) {
        match outdated {
            Outdated::Settings(tenant, TenantSettings::Templates) => self.generations.remove(&tenant),
            Outdated::Everything => self.generations.clear(),
            Outdated::Keys | Outdated::Settings(..) => {}
        }
    }
}

type PendingNames = Pending<Key, LatestRow, DbError>;

async fn find(db: Db, pending: PendingNames) -> PendingNames {
    pending.complete(async |names| versions::latest(&db, names).await).await
}

/// Prepares a stored version for rendering; `None` if this version of Postrider cannot read it.
pub async fn program(compiled: Value) -> Option<Program> {
    let compiled: Compiled = serde_json::from_value(compiled).ok()?;
    tokio::task::spawn_blocking(move || Program::new(&compiled).ok()).await.ok()?
}

/// Returns the source in a row; `None` if a later version of Postrider wrote it.
pub fn source_from_row(row: &SourceRow) -> Option<Source> {
    Some(Source {
        syntax: word(&row.syntax)?,
        format: word(&row.format)?,
        subject: row.subject.clone(),
        html: row.html.clone(),
        text: row.text.clone(),
        from: row.sender.clone(),
        reply_to: serde_json::from_value(row.reply_to.clone()).ok()?,
        layout: row.layout_id.map(|id| TemplateId(id).to_string()),
        variables: serde_json::from_value(row.variables.clone()).ok()?,
    })
}

/// Returns the enum value with this name.
fn word<T: DeserializeOwned>(name: &str) -> Option<T> {
    serde_json::from_value(Value::String(name.to_owned())).ok()
}

/// Returns the row of a new template without content.
pub fn empty_row() -> SourceRow {
    SourceRow {
        syntax: syntax_name(Syntax::Jinja).into(),
        format: format_name(Format::Html).into(),
        subject: None,
        html: None,
        text: None,
        sender: None,
        reply_to: Value::Array(Vec::new()),
        layout_id: None,
        variables: Value::Array(Vec::new()),
    }
}

/// Returns a row with these changes. `layout_id` is the layout after the change.
pub fn changed_row(row: SourceRow, change: ContentChange, layout_id: Option<TemplateId>) -> SourceRow {
    let list = |value: Option<Value>| value.unwrap_or_else(|| Value::Array(Vec::new()));
    let reply_to = change.reply_to.map(|list| serde_json::json!(list));
    let variables = change.variables.map(|list| serde_json::json!(list));
    SourceRow {
        syntax: change.syntax.map_or(row.syntax, |syntax| syntax_name(syntax).into()),
        format: change.format.map_or(row.format, |format| format_name(format).into()),
        subject: change.subject.apply(row.subject),
        html: change.html.apply(row.html),
        text: change.text.apply(row.text),
        sender: change.from.apply(row.sender),
        reply_to: list(reply_to.apply(Some(row.reply_to))),
        layout_id: layout_id.map(|id| id.0),
        variables: list(variables.apply(Some(row.variables))),
    }
}

fn syntax_name(syntax: Syntax) -> &'static str {
    match syntax {
        Syntax::Jinja => "jinja",
        Syntax::Vars => "vars",
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Html => "html",
        Format::Mjml => "mjml",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limits::Change;
    use crate::template::{Variable, VariableType};

    #[test]
    fn row_and_source_have_the_same_content() {
        let variable = Variable {
            key: "name".into(),
            kind: VariableType::String,
            required: false,
            default: Some("you".into()),
            max_length: Some(20),
        };
        let change = ContentChange {
            syntax: Some(Syntax::Vars),
            format: Some(Format::Mjml),
            subject: Change::Set("Hi {{name}}".into()),
            html: Change::Set("<mjml></mjml>".into()),
            text: Change::Set(String::new()),
            from: Change::Set("a@b.test".into()),
            reply_to: Change::Set(vec!["c@d.test".into()]),
            layout: Change::Keep,
            variables: Change::Set(vec![variable.clone()]),
        };
        let id = TemplateId(uuid::Uuid::from_u128(7));
        let row = changed_row(empty_row(), change, Some(id));
        let source = source_from_row(&row).unwrap();
        assert_eq!((source.syntax, source.format), (Syntax::Vars, Format::Mjml));
        assert_eq!((source.subject.as_deref(), source.text.as_deref()), (Some("Hi {{name}}"), Some("")));
        assert_eq!(
            (source.from.as_deref(), source.reply_to.as_slice()),
            (Some("a@b.test"), &["c@d.test".to_owned()][..])
        );
        assert_eq!((source.layout, source.variables), (Some(id.to_string()), vec![variable]));

        let cleared = ContentChange { subject: Change::Clear, reply_to: Change::Clear, ..ContentChange::default() };
        let row = changed_row(row, cleared, None);
        assert_eq!((row.subject, row.reply_to, row.layout_id), (None, serde_json::json!([]), None));
        assert_eq!((row.syntax.as_str(), row.html.as_deref()), ("vars", Some("<mjml></mjml>")));
    }
}
