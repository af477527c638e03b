//! Limits of templates, of their variables and of what they produce. Limits of a single step are next to its code.

/// Maximum size of each of `html` and `text` of a template or layout, in bytes.
pub const MAX_SOURCE: usize = 512 * 1024;
/// Maximum size of an `html` in MJML, with its layouts, in bytes.
pub const MAX_MJML: usize = 256 * 1024;
/// Maximum depth of nested elements in MJML.
pub const MAX_MJML_DEPTH: usize = 64;
/// Maximum depth of nested elements in HTML.
pub const MAX_HTML_DEPTH: usize = 256;
/// Maximum number of elements, texts and comments in HTML.
pub const MAX_HTML_NODES: usize = 30_000;
/// Maximum size of the HTML that a template is compiled to, in bytes.
pub const MAX_COMPILED: usize = 1024 * 1024;
/// Maximum length of one template tag, in bytes.
pub const MAX_TAG: usize = 8 * 1024;
/// Maximum number of words and signs in one template tag.
pub(super) const MAX_TAG_TOKENS: usize = 1_000;
/// Maximum depth of nested `block` tags in one source.
pub(super) const MAX_BLOCK_DEPTH: usize = 32;
/// Maximum number of `elif` in a template.
pub(super) const MAX_ELIF: usize = 500;
/// Maximum length of `subject`, of `from` and of each entry of `reply_to` in a template, in characters.
pub const MAX_LINE_SOURCE: usize = 4_000;
/// Maximum number of entries of `reply_to`.
pub const MAX_REPLY_TO: usize = 10;
/// Maximum number of layouts that a template may use, directly and through other layouts.
pub const MAX_LAYOUTS: usize = 16;
/// Maximum length of a chain of layouts.
pub const MAX_LAYOUT_DEPTH: usize = 8;

/// Maximum number of declared variables, including those of the layouts.
pub const MAX_VARIABLES: usize = 200;
/// Maximum length of a variable's key, in characters.
pub const MAX_KEY: usize = 50;
/// Maximum size of the variables of one message as JSON, in bytes.
pub const MAX_VALUES: usize = 256 * 1024;
/// Maximum depth of nested arrays and objects in a variable.
pub const MAX_VALUE_DEPTH: usize = 32;

/// Maximum fuel of one rendered part of a template, such as `html`; all parts together may use twice as much. One unit
/// pays for an instruction of the template, or for about 64 bytes of created text.
pub const FUEL: u64 = 100_000;
/// Maximum size of a rendered `html` or `text`, in bytes.
pub const MAX_OUTPUT: usize = 2 * 1024 * 1024;
/// Size above which Gmail truncates an HTML body, in bytes.
pub const SIZE_THAT_CLIENTS_TRUNCATE: usize = 102 * 1024;
/// Maximum length of a rendered subject, in characters.
pub const MAX_SUBJECT: usize = 998;
/// Maximum length of a rendered `from` or entry of `reply_to`, in bytes.
pub const MAX_ADDRESS: usize = 998;
