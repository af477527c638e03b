//! The OpenAPI schemas of JSON objects whose names the caller chooses. A code generator invents a name for each inline
//! schema of this kind; these have one name wherever they are used.

use std::collections::BTreeMap;

/// Strings by name that belong to a message. Status and events contain them.
#[derive(Debug, utoipa::ToSchema)]
#[schema(example = json!({"order": "42"}))]
pub struct MessageMetadata(pub BTreeMap<String, String>);

/// Custom headers: values by name.
#[derive(Debug, utoipa::ToSchema)]
#[schema(example = json!({"X-Entity-Ref": "42"}))]
pub struct MessageHeaders(pub BTreeMap<String, String>);

/// Values of template variables by name.
#[derive(Debug, utoipa::ToSchema)]
#[schema(example = json!({"name": "Ann", "number": 42}))]
pub struct TemplateValues(pub serde_json::Map<String, serde_json::Value>);

/// An object as the audit log recorded it. Its fields are those of the API's responses.
#[derive(Debug, utoipa::ToSchema)]
#[schema(example = json!({"name": "shop", "scopes": ["send"]}))]
pub struct AuditedState(pub serde_json::Map<String, serde_json::Value>);
