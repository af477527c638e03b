//! Identifiers: `UUIDv7` (RFC 9562) inside, so that they sort by time and serve as partition bounds; a prefix and
//! 32 hex digits outside, so that a reader sees what an id names.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::{NoContext, Timestamp, Uuid};

/// A string that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}_ and 32 hexadecimal digits")]
pub struct IdError {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// What the id starts with when shown, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id whose time part is `now`, to the millisecond.
            pub fn new(now: DateTime<Utc>) -> Self {
                Self(uuid_at(now))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = IdError { prefix: $prefix };
                let hex = text.strip_prefix(concat!($prefix, "_")).ok_or(error.clone())?;
                if hex.len() != 32 || hex.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(error);
                }
                Uuid::try_parse(hex).map(Self).map_err(|_| error)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// One message, as accepted by `POST /v1/messages`.
    MessageId, "msg"
);
id!(
    /// One recipient of one message.
    RecipientId, "rcp"
);
id!(
    /// One API key.
    KeyId, "key"
);

/// One lane; a number in the database. Shown with a prefix like every id, though it is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub i64);

impl LaneId {
    /// Of a lane that does not exist yet; the database counts from 1.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane_{}", self.0)
    }
}

impl FromStr for LaneId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("lane_").filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())).ok_or(())?;
        digits.parse().map(Self).map_err(|_| ())
    }
}

impl serde::Serialize for LaneId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whose data a row is. Every table carries it, so that the schema can be spread by tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub Uuid);

impl TenantId {
    /// The tenant that the first migration creates.
    pub const DEFAULT: Self = Self(Uuid::nil());
}

/// A fresh `UUIDv7` whose time part is `at`.
pub fn uuid_at(at: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, at.timestamp_subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_shown() {
        let id = MessageId::new(DateTime::UNIX_EPOCH);
        assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
    }

    #[test]
    fn a_lane_reads_back_and_nothing_else_does() {
        assert_eq!(LaneId(42).to_string().parse(), Ok(LaneId(42)));
        for text in ["42", "lane_", "lane_-1", "lane_+1", "lane_99999999999999999999", "msg_1"] {
            assert_eq!(text.parse::<LaneId>(), Err(()), "{text}");
        }
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let id = RecipientId::new(DateTime::UNIX_EPOCH).to_string();
        assert!(id.parse::<MessageId>().is_err());
        assert!("msg_".parse::<MessageId>().is_err());
        assert!("msg_zz".parse::<MessageId>().is_err());
    }
}
