//! The `template` of a message: finds it among those that the caller has loaded, checks its variables and renders it.
//!
//! Parsing has no access to the database, so a body with templates is parsed twice: the first time, [`Templates`]
//! records which ones are missing, and parsing fails with
//! [`Rejection::NeedsTemplates`](crate::accept::request::Rejection::NeedsTemplates).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::Map;
use serde_json_borrow::Value;

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::{Node, one_line};
use crate::domain::address::Mailbox;
use crate::domain::api::fault::{Code, Fault, Faults};
use crate::domain::message::Warning;
use crate::domain::message::template::{TemplateName, TemplateVersion};
use crate::template::limits::{FUEL, MAX_KEY, MAX_VARIABLES};
use crate::template::{Program, Rendered};

/// The fields of the template of a message.
pub const FIELDS: &[&str] = &["id", "version", "variables"];

/// Maximum number of different templates in one request.
pub const MAX_TEMPLATES: usize = 50;
/// Memory of the templates of one request, in bytes, above which no more are loaded.
pub const MAX_TEMPLATE_MEMORY: usize = 32 << 20;
/// Maximum size of everything that one request renders, in bytes. It bounds the memory of a batch.
const MAX_RENDERED: u64 = 64 << 20;
/// Maximum fuel of everything that one request renders: some seconds of the most expensive templates.
const MAX_FUEL: u64 = 100 * FUEL;

/// A template as a request names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateRef {
    /// Its id or alias.
    pub name: TemplateName,
    /// The version; `None` means the latest one.
    pub version: Option<i32>,
}

/// The result of looking up a template.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The template can be rendered.
    Found {
        /// The version that is used.
        which: TemplateVersion,
        /// The version, ready to render.
        program: Arc<Program>,
    },
    /// There is no such template.
    Unknown,
    /// The template has no published version.
    NotPublished,
    /// The template has no version of this number.
    UnknownVersion {
        /// The latest version.
        latest: i32,
    },
    /// This version of Postrider cannot read the stored version of the template.
    Unreadable,
    /// The request has more than [`MAX_TEMPLATES`] templates, or its templates need more than [`MAX_TEMPLATE_MEMORY`].
    TooMany,
}

/// The templates of a request, loaded before it is parsed.
#[derive(Debug, Default)]
pub struct Templates {
    /// `None` before they are loaded.
    loaded: Option<BTreeMap<TemplateRef, Lookup>>,
    missing: Mutex<BTreeSet<TemplateRef>>,
    rendered: AtomicU64,
    fuel: AtomicU64,
}

/// No templates: for requests that cannot have any.
pub static NO_TEMPLATES: Templates = Templates {
    loaded: Some(BTreeMap::new()),
    missing: Mutex::new(BTreeSet::new()),
    rendered: AtomicU64::new(0),
    fuel: AtomicU64::new(0),
};

impl Templates {
    /// Creates the set of these templates.
    pub fn new(loaded: BTreeMap<TemplateRef, Lookup>) -> Self {
        Self { loaded: Some(loaded), ..Self::default() }
    }

    /// Returns whether the templates are loaded. If not, parsing a message that names a template fails with
    /// [`Rejection::NeedsTemplates`](crate::accept::request::Rejection::NeedsTemplates).
    pub fn are_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    /// Returns the templates that were needed but not loaded, and clears the list of them.
    pub fn take_missing(&self) -> Vec<TemplateRef> {
        std::mem::take(&mut *self.missing.lock()).into_iter().collect()
    }

    /// Returns whether rendering with these templates has taken all the fuel of a request.
    pub fn are_exhausted(&self) -> bool {
        self.fuel.load(Ordering::Relaxed) > MAX_FUEL
    }

    /// Returns the number of bytes rendered with these templates.
    pub fn rendered_bytes(&self) -> u64 {
        self.rendered.load(Ordering::Relaxed)
    }

    /// Returns whether each of the templates takes less than about a millisecond to render.
    pub fn are_cheap(&self) -> bool {
        self.loaded.iter().flat_map(BTreeMap::values).all(|lookup| match lookup {
            Lookup::Found { program, .. } => program.is_cheap(),
            _ => true,
        })
    }

    /// Returns the result of looking up a template; `None` if the templates are not loaded.
    fn get(&self, template: TemplateRef) -> Option<Lookup> {
        if let Some(loaded) = &self.loaded {
            return Some(loaded.get(&template).cloned().unwrap_or(Lookup::Unknown));
        }
        self.missing.lock().insert(template);
        None
    }
}

/// The template of a message.
#[derive(Debug)]
pub enum Content {
    /// The message has no template.
    None,
    /// The template has not been loaded yet.
    NotLoaded,
    /// The template or its variables have a fault, which has been added.
    Invalid,
    /// The rendered template.
    Rendered(Box<RenderedTemplate>),
}

/// A rendered template.
#[derive(Debug)]
pub struct RenderedTemplate {
    /// The version that was rendered.
    pub which: TemplateVersion,
    /// Its parts.
    pub parts: Rendered,
    /// Variables that the template does not declare.
    pub warnings: Vec<Warning>,
}

/// The template of a bulk, which is rendered for each recipient.
#[derive(Debug)]
pub struct PinnedTemplate {
    /// The version.
    pub which: TemplateVersion,
    /// The version, ready to render.
    pub program: Arc<Program>,
    /// The variables that all recipients have in common.
    pub variables: Map<String, serde_json::Value>,
}

/// The field `template`.
enum Found<'p> {
    None,
    NotLoaded,
    Invalid,
    Pinned(PinnedTemplate, Pointer<'p>),
}

/// Parses and renders the field `template` of a message.
pub fn content(fields: &mut Fields<'_, '_>, templates: &Templates, faults: &mut Faults) -> Content {
    match find(fields, templates, faults) {
        Found::None => Content::None,
        Found::NotLoaded => Content::NotLoaded,
        Found::Invalid => Content::Invalid,
        Found::Pinned(PinnedTemplate { which, program, variables }, at) => {
            let rendered = render(which, &program, &variables, &at, templates, faults);
            rendered.map_or(Content::Invalid, |rendered| Content::Rendered(Box::new(rendered)))
        }
    }
}

/// Parses the field `template` of a bulk. Returns `Ok(None)` if there is no such field, or if a fault was added, and
/// `Err` if the template is not loaded.
pub fn pinned(
    fields: &mut Fields<'_, '_>,
    templates: &Templates,
    faults: &mut Faults,
) -> Result<Option<PinnedTemplate>, NotLoaded> {
    match find(fields, templates, faults) {
        Found::Pinned(pinned, _) => Ok(Some(pinned)),
        Found::None | Found::Invalid => Ok(None),
        Found::NotLoaded => Err(NotLoaded),
    }
}

/// A template must be loaded before the request is parsed again.
#[derive(Debug)]
pub struct NotLoaded;

fn find<'p>(fields: &mut Fields<'p, '_>, templates: &Templates, faults: &mut Faults) -> Found<'p> {
    let Some(node) = fields.take("template") else { return Found::None };
    let Node { value, at } = node;
    let Some(mut fields) = Fields::open(value, &at, FIELDS, faults) else { return Found::Invalid };
    let before = faults.len();
    let name = fields.require("id", faults).and_then(|node| name(node, faults));
    let version = fields.take("version").and_then(|node| node.whole(1..=i32::MAX.unsigned_abs().into(), faults));
    let variables = fields.take("variables").map_or_else(Map::new, |node| variables(node, faults));
    let Some(name) = name.filter(|_| faults.len() == before) else { return Found::Invalid };
    let id = Pointer::Field(&at, "id");
    let template = TemplateRef { name, version };
    let shown = template.name.clone();
    match templates.get(template) {
        None => return Found::NotLoaded,
        Some(Lookup::Found { which, program }) => {
            return Found::Pinned(PinnedTemplate { which, program, variables }, at);
        }
        Some(Lookup::Unknown) => {
            id.fault(faults, Code::UnknownTemplate, format_args!("there is no template `{shown}`"));
        }
        Some(Lookup::NotPublished) => {
            let message = format_args!("not published yet; publish it with POST /v1/templates/{shown}/publish");
            id.fault(faults, Code::NotPublished, message);
        }
        Some(Lookup::UnknownVersion { latest }) => {
            let message = format_args!("there is no such version of `{shown}`; the latest is {latest}");
            Pointer::Field(&at, "version").fault(faults, Code::UnknownTemplate, message);
        }
        Some(Lookup::Unreadable) => {
            let message = "this server cannot read the published version; publish the template again";
            id.fault(faults, Code::NotPublished, message);
        }
        Some(Lookup::TooMany) => {
            let most = MAX_TEMPLATE_MEMORY >> 20;
            let message = format_args!(
                "a request may use at most {MAX_TEMPLATES} different templates of {most} MiB in memory; send this message in \
                 another request"
            );
            id.fault(faults, Code::TooMany, message);
        }
    }
    Found::Invalid
}

/// Checks that the template of a bulk can be rendered for the recipient at `at`, and renders the parts that become
/// header fields. Adds a fault if the template cannot be rendered.
pub fn verify(
    template: &PinnedTemplate,
    variables: &Map<String, serde_json::Value>,
    at: &Pointer<'_>,
    templates: &Templates,
    faults: &mut Faults,
) -> Option<RenderedTemplate> {
    let PinnedTemplate { which, program, .. } = template;
    let checked =
        program.check(variables).map_err(|list| list.into_iter().for_each(|f| add_below(f, at, faults))).ok()?;
    let verified = program.verify(&checked);
    // The fuel that a failed rendering used is unknown, so the maximum of a part is counted.
    templates.fuel.fetch_add(verified.as_ref().map_or(FUEL, |parts| parts.fuel), Ordering::Relaxed);
    let parts = verified.map_err(|fault| add_below(fault, at, faults)).ok()?;
    let warnings = checked.warnings.into_iter().map(|warning| Warning {
        code: "unknown_variable",
        message: format!("`{at}{}`: {}", warning.pointer, warning.message),
    });
    Some(RenderedTemplate { which: *which, parts, warnings: warnings.collect() })
}

/// Parses a template's id or alias.
pub fn name(node: Node<'_, '_>, faults: &mut Faults) -> Option<TemplateName> {
    let at = node.at;
    let text = node.string(faults)?;
    text.parse().map_err(|error| at.fault(faults, Code::InvalidValue, error)).ok()
}

/// Parses the values of variables: any JSON, without NUL, which Postgres cannot store.
pub fn variables(node: Node<'_, '_>, faults: &mut Faults) -> Map<String, serde_json::Value> {
    let mut map = Map::new();
    let why = format_args!("at most {MAX_VARIABLES} variables are allowed");
    node.each_entry(MAX_VARIABLES, why, faults, |name, node, faults| {
        if one_line(name, &node.at, 1..=MAX_KEY, faults)
            && let Some(value) = json(node, faults)
        {
            map.insert(name.to_owned(), value);
        }
    });
    map
}

/// Returns any JSON value without NUL, which Postgres cannot store.
pub fn json(node: Node<'_, '_>, faults: &mut Faults) -> Option<serde_json::Value> {
    if has_nul(&node.value) {
        node.at.fault(faults, Code::ControlCharacter, "must not contain NUL (U+0000)");
        return None;
    }
    Some(node.value.into())
}

/// Returns whether a string in the value contains NUL. The parser bounds the depth.
fn has_nul(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::Str(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(object) => object.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
    }
}

fn render(
    which: TemplateVersion,
    program: &Program,
    variables: &Map<String, serde_json::Value>,
    at: &Pointer<'_>,
    templates: &Templates,
    faults: &mut Faults,
) -> Option<RenderedTemplate> {
    let checked = match program.check(variables) {
        Ok(checked) => checked,
        Err(list) => {
            for fault in list {
                add_below(fault, at, faults);
            }
            return None;
        }
    };
    if templates.fuel.load(Ordering::Relaxed) > MAX_FUEL {
        let message = "the templates of this request take more work than allowed; send this message in another request";
        at.fault(faults, Code::TooExpensive, message);
        return None;
    }
    let rendered = program.render(&checked);
    // The fuel that a failed rendering used is unknown, so the maximum of a part is counted.
    templates.fuel.fetch_add(rendered.as_ref().map_or(FUEL, |parts| parts.fuel), Ordering::Relaxed);
    let parts = rendered.map_err(|fault| add_below(fault, at, faults)).ok()?;
    let bodies = [&parts.html, &parts.text];
    // A template can create NUL with an escape sequence in a string.
    if bodies.into_iter().flatten().any(|body| memchr::memchr(0, body.as_bytes()).is_some()) {
        at.fault(faults, Code::ControlCharacter, "the rendered template must not contain NUL (U+0000)");
        return None;
    }
    let size: usize = bodies.into_iter().flatten().map(String::len).sum();
    let rendered = templates.rendered.fetch_add(size as u64, Ordering::Relaxed) + size as u64;
    if rendered > MAX_RENDERED {
        let most = MAX_RENDERED >> 20;
        at.fault(
            faults,
            Code::TooLarge,
            format_args!("the rendered templates of a request must not exceed {most} MiB"),
        );
        return None;
    }
    let warnings = checked.warnings.into_iter().map(|warning| Warning {
        code: "unknown_variable",
        message: format!("`{at}{}`: {}", warning.pointer, warning.message),
    });
    Some(RenderedTemplate { which, parts, warnings: warnings.collect() })
}

/// Adds a fault whose pointer is relative to `at`.
fn add_below(fault: Fault, at: &Pointer<'_>, faults: &mut Faults) {
    faults.push(format!("{at}{}", fault.pointer), fault.code, fault.message);
}

impl Content {
    /// Returns whether the message has a template.
    pub fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Returns the sender of the template. Adds a fault to `/from` if there is none.
    pub fn sender(&self, message: &Pointer<'_>, faults: &mut Faults) -> Option<Mailbox> {
        let at = Pointer::Field(message, "from");
        match self {
            Self::None => at.fault(faults, Code::Required, "`from` is required"),
            Self::NotLoaded | Self::Invalid => {}
            Self::Rendered(rendered) => match &rendered.parts.from {
                None => at.fault(faults, Code::Required, "`from` is required, because the template has none"),
                Some(text) => return mailbox(text, "from", message, faults),
            },
        }
        None
    }

    /// Returns the template's addresses for replies.
    pub fn reply_to(&self, message: &Pointer<'_>, faults: &mut Faults) -> Vec<Mailbox> {
        let Self::Rendered(rendered) = self else { return Vec::new() };
        rendered.parts.reply_to.iter().filter_map(|text| mailbox(text, "reply_to", message, faults)).collect()
    }

    /// Returns the subject of the template. Adds a fault to `/subject` if there is none.
    pub fn subject(&mut self, message: &Pointer<'_>, faults: &mut Faults) -> Option<String> {
        let at = Pointer::Field(message, "subject");
        match self {
            Self::None => at.fault(faults, Code::Required, "`subject` is required"),
            Self::NotLoaded | Self::Invalid => {}
            Self::Rendered(rendered) => {
                let subject = rendered.parts.subject.take();
                if subject.is_none() {
                    at.fault(faults, Code::Required, "`subject` is required, because the template has none");
                }
                return subject;
            }
        }
        None
    }
}

/// Parses an address that a template rendered.
fn mailbox(text: &str, part: &str, message: &Pointer<'_>, faults: &mut Faults) -> Option<Mailbox> {
    let at = Pointer::Field(message, "template");
    let mut own = Faults::default();
    let node = Node { value: Value::Str(text.into()), at };
    let mailbox = super::address::sender(node, &mut own);
    for fault in own.into_vec() {
        let message = format!("the template's `{part}` renders to an address that is not valid: {}", fault.message);
        faults.push(fault.pointer, fault.code, message);
    }
    mailbox
}
