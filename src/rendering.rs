//! Renders the bodies of messages of bulks when they are sent: from the compiled template that is stored with the content of
//! the bulk, the variables that all of its messages have in common, and those of each message.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::db::messages::stored::{Bodies, RenderBodies};
use crate::template::{Checked, Compiled, Program, Rendered};

/// Memory for cached templates, in bytes.
const MEMORY: u64 = 32 << 20;
/// Expected number of cached templates.
const TYPICAL_COUNT: usize = 512;

/// `contents.template`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ContentTemplate {
    /// The compiled template.
    pub compiled: Compiled,
    /// The variables that all messages with the content have in common.
    pub variables: Map<String, Value>,
}

/// A template of a content, ready to render.
#[derive(Debug)]
pub struct ContentProgram {
    program: Program,
    variables: Map<String, Value>,
    bytes: u64,
}

/// Renders bodies. Caches the templates, which never change. Each process has one `Renderer`.
#[derive(Debug)]
pub struct Renderer {
    programs: Cache<Uuid, Arc<ContentProgram>, Bytes>,
}

/// Weighs programs by their memory.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Uuid, Arc<ContentProgram>> for Bytes {
    fn weight(&self, _: &Uuid, program: &Arc<ContentProgram>) -> u64 {
        program.bytes
    }
}

impl Default for Renderer {
    fn default() -> Self {
        Self { programs: Cache::with_weighter(TYPICAL_COUNT, MEMORY, Bytes) }
    }
}

/// The error of a panic. Its own message may quote the message's content.
const PANICKED: &str = "postrider failed while rendering this template; see its log";

impl Renderer {
    /// Returns the template of the content with this id, ready to render. Fails if this version of Postrider cannot read it.
    pub async fn program(&self, content: Uuid, template: &Value) -> Result<Arc<ContentProgram>, String> {
        if let Some(program) = self.programs.get(&content) {
            return Ok(program);
        }
        let stored = ContentTemplate::deserialize(template).map_err(|error| error.to_string())?;
        let ContentTemplate { compiled, variables } = stored;
        let parsed = spawn_blocking(move || Program::new(&compiled)).await.map_err(|_| PANICKED)?;
        let program =
            parsed.map_err(|faults| faults.into_iter().map(|fault| fault.message).collect::<Vec<_>>().join("; "))?;
        let bytes = (program.bytes() + variables_size(&variables)) as u64;
        let program = Arc::new(ContentProgram { program, variables, bytes });
        self.programs.insert(content, program.clone());
        Ok(program)
    }
}

impl ContentProgram {
    /// Renders the bodies of a message with these variables.
    async fn bodies(self: &Arc<Self>, own: &Map<String, Value>) -> Result<Rendered, String> {
        let checked = self.check(own)?;
        if let Some(rendered) = self.program.render_quickly(&checked) {
            return Ok(rendered);
        }
        let program = self.clone();
        let rendered = spawn_blocking(move || program.program.render(&checked)).await;
        rendered.map_err(|_| PANICKED)?.map_err(|fault| fault.message)
    }

    /// Renders the header fields of several messages, each with variables of its own. The results have no bodies.
    pub async fn lines(self: &Arc<Self>, own: Vec<Map<String, Value>>) -> Result<Vec<Rendered>, String> {
        let program = self.clone();
        let rendered = move || {
            let line = |own: &Map<String, Value>| {
                program.program.render_lines(&program.check(own)?).map_err(|fault| fault.message)
            };
            own.iter().map(line).collect()
        };
        spawn_blocking(rendered).await.map_err(|_| PANICKED)?
    }

    fn check(&self, own: &Map<String, Value>) -> Result<Checked, String> {
        let checked = if self.variables.is_empty() {
            self.program.check(own)
        } else {
            self.program.check(&merged(&self.variables, own))
        };
        checked.map_err(|faults| {
            faults
                .into_iter()
                .map(|fault| format!("{}: {}", fault.pointer, fault.message))
                .collect::<Vec<_>>()
                .join("; ")
        })
    }
}

impl RenderBodies for Renderer {
    async fn render(&self, content: Uuid, template: &Value, variables: &Value) -> Result<Bodies, String> {
        let none = Map::new();
        let own = variables.as_object().unwrap_or(&none);
        let Rendered { html, text, .. } = self.program(content, template).await?.bodies(own).await?;
        Ok(Bodies { text, html })
    }
}

/// Returns the variables of a message: those that all messages of the bulk have in common, and its own, which replace them.
pub fn merged(shared: &Map<String, Value>, own: &Map<String, Value>) -> Map<String, Value> {
    shared.iter().chain(own).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Returns the approximate memory that variables take, in bytes.
fn variables_size(variables: &Map<String, Value>) -> usize {
    2 * Value::Object(variables.clone()).to_string().len()
}
