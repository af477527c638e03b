//! What an application stores: the source of a template and its declared variables.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The language of a template's placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TemplateSyntax)]
pub enum Syntax {
    /// `MiniJinja`, a subset of Jinja2: expressions, conditions, loops, filters, macros and layouts.
    Jinja,
    /// Plain substitution of `{{KEY}}` and `{{{KEY}}}`, as in Resend's templates.
    Vars,
}

/// The language of a template's `html`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TemplateFormat)]
pub enum Format {
    /// HTML. The rules of its `<style>` elements are copied to `style` attributes when it is published.
    Html,
    /// MJML, which is compiled to HTML when it is published.
    Mjml,
}

/// The JSON type of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TemplateVariableType)]
pub enum VariableType {
    /// A string.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// An array of any values.
    Array,
    /// An object.
    Object,
}

/// A declared variable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = TemplateVariable)]
pub struct Variable {
    /// Name: a letter or underscore, then letters, digits and underscores; at most 50 characters. In `vars` it may also
    /// start with a digit.
    #[schema(example = "name")]
    pub key: String,
    /// The type that values must have.
    #[serde(rename = "type")]
    pub kind: VariableType,
    /// Whether a message without the variable is refused. A `default` takes precedence. A missing variable that is
    /// neither required nor has a default is `none`, which prints nothing.
    #[serde(default)]
    pub required: bool,
    /// The value of messages that do not set the variable; `null`: there is none.
    #[serde(default)]
    pub default: Option<Value>,
    /// Maximum length of a string in characters, or of an array in items.
    #[serde(default)]
    #[schema(example = 200)]
    pub max_length: Option<u32>,
}

/// A template as the application wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The language of the placeholders, in all parts.
    pub syntax: Syntax,
    /// The language of `html`.
    pub format: Format,
    /// The subject.
    pub subject: Option<String>,
    /// The HTML or MJML body.
    pub html: Option<String>,
    /// The plain text body. `None`: it is derived from `html`. If it is empty, the messages have no plain text body.
    pub text: Option<String>,
    /// The sender, `a@b.test` or `Name <a@b.test>`.
    pub from: Option<String>,
    /// Addresses of the `Reply-To` header.
    pub reply_to: Vec<String>,
    /// A name of the layout into whose block `content` the bodies are inserted; see [`super::Layouts`].
    pub layout: Option<String>,
    /// The declared variables.
    pub variables: Vec<Variable>,
}

/// Something that does not prevent a template from being published, or a message from being rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = TemplateWarning)]
pub struct Warning {
    /// Stable, machine-readable code.
    pub code: WarningCode,
    /// A JSON pointer to the part of the template, or to the variable of the message.
    #[schema(example = "/html")]
    pub pointer: String,
    /// The problem and how to fix it.
    pub message: String,
}

/// The kind of warning. New codes may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TemplateWarningCode)]
pub enum WarningCode {
    /// The message sets a variable that the template does not declare.
    UnknownVariable,
    /// A declared variable is not used.
    UnusedVariable,
    /// The filter `safe`, or `autoescape false`, prints values without escaping them.
    UnescapedOutput,
    /// CSS rules were left in their `<style>` element instead of being copied to `style` attributes.
    CssNotInlined,
    /// A stylesheet outside the template is not loaded.
    StylesheetNotLoaded,
    /// The template has no `html`, or no plain text body.
    MissingPart,
    /// The HTML body is so large that mail clients truncate it.
    LargeHtml,
}
