//! Ids in Resend's form: UUIDs with hyphens, which some of its SDKs parse. Ids of `/v1` are accepted too.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::domain::id::{EndpointId, KeyId, MessageId, PostId, TemplateId};
use crate::http::ApiError;

/// An id that is a UUID.
pub(super) trait UuidId: FromStr {
    /// Creates the id.
    fn from_uuid(uuid: Uuid) -> Self;
}

macro_rules! uuid_id {
    ($($name:ident),+) => {
        $(impl UuidId for $name {
            fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        })+
    };
}

uuid_id!(EndpointId, KeyId, MessageId, PostId, TemplateId);

/// Parses an id: a UUID, or an id of `/v1`.
pub(super) fn parse<T: UuidId>(text: &str) -> Option<T> {
    text.parse().ok().or_else(|| Uuid::try_parse(text).ok().map(T::from_uuid))
}

/// An id in the path. An invalid id returns 404.
#[derive(Debug)]
pub(super) struct ResendId<T>(pub T);

impl<S: Send + Sync, T: UuidId + Send> FromRequestParts<S> for ResendId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let missing = ApiError::NotFound("Nothing has this id.");
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else { return Err(missing) };
        parse(&text).map(Self).ok_or(missing)
    }
}

/// Derives an id for a part of an object, for parts that have no id of their own.
pub(super) fn derived(parent: Uuid, part: &str) -> Uuid {
    let hash = Sha256::new_with_prefix(parent.as_bytes()).chain_update(part.as_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    // Version 8: each application defines the meaning of the bits (RFC 9562).
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_id_are_accepted() {
        let id: MessageId = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b".parse().unwrap();
        for text in ["msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b", "019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b"] {
            assert_eq!(parse(text), Some(id), "{text}");
        }
        for text in ["", "batch", "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b", "019a8f3c-2b7d-7c4e-8a1b"] {
            assert_eq!(parse::<MessageId>(text), None, "{text}");
        }
        assert_eq!(serde_json::to_value(id.0).unwrap(), "019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b");
    }

    #[test]
    fn derived_ids_differ_and_stay_the_same() {
        let parent = Uuid::from_u128(1);
        assert_eq!(derived(parent, "0"), derived(parent, "0"));
        assert_ne!(derived(parent, "0"), derived(parent, "1"));
        assert_ne!(derived(parent, "0"), derived(Uuid::from_u128(2), "0"));
        assert_eq!(derived(parent, "0").get_version_num(), 8);
    }
}
