//! Responses that name the object that was changed or deleted.

use serde::Serialize;
use uuid::Uuid;

/// An object that was changed.
#[derive(Debug, Serialize)]
pub(super) struct Object {
    object: &'static str,
    id: Uuid,
}

impl Object {
    pub(super) fn new(object: &'static str, id: Uuid) -> Self {
        Self { object, id }
    }
}

/// An object that was deleted.
#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the name of the field in the API")]
pub(super) struct Deleted {
    object: &'static str,
    id: Uuid,
    deleted: bool,
}

impl Deleted {
    pub(super) fn new(object: &'static str, id: Uuid) -> Self {
        Self { object, id, deleted: true }
    }
}
