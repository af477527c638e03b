//! The bodies of requests about templates, for the OpenAPI document. `accept::request::template` parses them.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::api::open_object::TemplateValues;
use crate::template::{Format, Syntax, VariableType};

/// Defines the body of a request with the content of a template, after its own fields.
macro_rules! content_body {
    ($(#[doc = $about:literal])+ $name:ident { $($own:tt)* }) => {
        $(#[doc = $about])+
        #[derive(Debug, Serialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($own)*
            /// The language of the placeholders; `jinja` by default.
            #[schema(nullable = false)]
            pub syntax: Option<Syntax>,
            /// The language of `html`; `html` by default.
            #[schema(nullable = false)]
            pub format: Option<Format>,
            /// The subject, one line of up to 4,000 characters. Messages may set their own.
            #[schema(example = "Invoice {{ number }}", max_length = 4000)]
            pub subject: Option<String>,
            /// The HTML or MJML body, up to 512 KiB; MJML up to 256 KiB.
            #[schema(example = "<p>Hello {{ name }}</p>")]
            pub html: Option<String>,
            /// The plain text body, up to 512 KiB. If it is not set, it is derived from `html`; if it is empty, messages
            /// have none.
            #[schema(example = "Hello {{ name }}")]
            pub text: Option<String>,
            /// The sender, `a@b.test` or `Name <a@b.test>`. Messages may set their own.
            #[schema(example = "Acme Billing <billing@acme.test>", max_length = 4000)]
            pub from: Option<String>,
            /// An address for replies, or up to 10 of them. Messages may set their own.
            pub reply_to: Option<ReplyToInput>,
            /// The id or alias of a published template, in whose block `content` the bodies are inserted.
            #[schema(example = "letterhead")]
            pub layout: Option<String>,
            /// The variables that messages set, up to 200. A variable is required unless `required` is `false` or it has
            /// a `default`.
            #[schema(max_items = 200)]
            pub variables: Option<Vec<VariableInput>>,
        }
    };
}

content_body! {
    /// A template to create.
    NewTemplateBody {
        /// The name for people.
        #[schema(example = "Invoice", min_length = 1, max_length = 255)]
        pub name: String,
        /// A name by which requests may refer to the template, unique among the templates: ASCII letters, digits, `.`, `_`
        /// and `-`, beginning with a letter, but not with `tpl_`.
        #[schema(example = "invoice", pattern = "^[A-Za-z][A-Za-z0-9._-]{0,99}$")]
        pub alias: Option<String>,
    }
}

content_body! {
    /// Changes to a template. `null` clears a field (not allowed for `name`, `syntax` and `format`); omitted fields keep
    /// their value.
    TemplateChangeBody {
        /// The name for people. Not null.
        #[schema(example = "Invoice", min_length = 1, max_length = 255, nullable = false)]
        pub name: Option<String>,
        /// A name by which requests may refer to the template, unique among the templates.
        #[schema(example = "invoice", pattern = "^[A-Za-z][A-Za-z0-9._-]{0,99}$")]
        pub alias: Option<String>,
        /// The `revision` that the changes were made for. If the template has another one now, nothing is changed (409). Not
        /// null; without it, the changes apply to whatever the template is now.
        #[schema(minimum = 1, nullable = false)]
        pub revision: Option<i32>,
    }
}

content_body! {
    /// A template to validate.
    ValidateBody {
        /// The values of the variables to render the template with; suggested ones by default.
        #[schema(value_type = Option<TemplateValues>, example = json!({"name": "Ann", "number": 42}))]
        pub values: Option<Map<String, Value>>,
    }
}

/// One address or several.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "only the OpenAPI schema of what accept::request::template parses")]
#[schema(as = TemplateReplyToInput)]
#[serde(untagged)]
pub enum ReplyToInput {
    /// A single address.
    #[schema(example = "help@acme.test")]
    One(String),
    /// Several addresses.
    Many(Vec<String>),
}

/// A variable to declare.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TemplateVariableInput)]
#[serde(deny_unknown_fields)]
pub struct VariableInput {
    /// The name: a letter or underscore, then letters, digits and underscores.
    #[schema(example = "name", min_length = 1, max_length = 50)]
    pub key: String,
    /// The type that values must have.
    #[serde(rename = "type")]
    pub kind: VariableType,
    /// Whether a message without the variable is refused; by default `true`, unless there is a `default`.
    #[schema(example = true)]
    pub required: Option<bool>,
    /// The value in messages that do not set the variable.
    #[schema(example = "customer")]
    pub default: Option<Value>,
    /// Maximum length of a string in characters, or of an array in items.
    #[schema(minimum = 1, example = 200)]
    pub max_length: Option<u32>,
}

/// What to preview.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewBody {
    /// The values of the variables.
    #[schema(value_type = Option<TemplateValues>, example = json!({"name": "Ann", "number": 42}))]
    pub variables: Option<Map<String, Value>>,
    /// The published version to preview; the draft by default.
    #[schema(minimum = 1, example = 3)]
    pub version: Option<i32>,
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;

    use super::*;
    use crate::accept::request::resources::template;

    fn has_fields<S: PartialSchema>(fields: &[&str]) -> bool {
        let schema = serde_json::to_value(S::schema()).unwrap();
        let mut documented: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = fields.to_vec();
        documented.sort_unstable();
        fields.sort_unstable();
        assert_eq!(documented, fields);
        schema["additionalProperties"] == false
    }

    #[test]
    fn documented_fields_are_the_parsed_ones() {
        assert!(has_fields::<NewTemplateBody>(template::FIELDS));
        assert!(has_fields::<TemplateChangeBody>(template::CHANGED));
        assert!(has_fields::<ValidateBody>(template::VALIDATED));
        assert!(has_fields::<VariableInput>(template::VARIABLE));
        assert!(has_fields::<PreviewBody>(template::PREVIEW));
    }
}
