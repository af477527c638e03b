//! The OpenAPI schema of binary bodies: a bare `Vec<u8>` would be an array of integers.

/// Binary content.
#[derive(Debug, utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Binary(pub Vec<u8>);
