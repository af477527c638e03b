//! How bodies that are bytes, and not JSON, are described in the OpenAPI document: a bare `Vec<u8>` would be an array of
//! integers there.

/// The bytes as they are.
#[derive(Debug, utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Binary(pub Vec<u8>);
