//! How bytes are described in the OpenAPI document.

/// A body that is bytes and not JSON: without it they would be documented as an array of integers.
#[derive(Debug, utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Binary(pub Vec<u8>);
