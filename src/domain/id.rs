//! Identifiers. Except for lanes, the default tenant and test tenants, an id is a `UUIDv7` (RFC 9562) internally, so that
//! ids sort by time and serve as partition bounds. Externally it is a prefix and 32 hexadecimal digits; the prefix names
//! the kind of object.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::{Builder, Uuid};

/// A string that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be an id: {prefix}_ followed by 32 lower-case hexadecimal digits")]
pub struct IdError {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The prefix of the formatted id, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// Creates an id whose time part is `now`, in milliseconds.
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
    /// The id of a message.
    MessageId, "msg"
);
id!(
    /// The id of a recipient of a message.
    RecipientId, "rcp"
);
id!(
    /// The id of an API key.
    KeyId, "key"
);
id!(
    /// The id of a webhook endpoint.
    EndpointId, "wh"
);
id!(
    /// The id of a webhook delivery attempt.
    PostId, "dlv"
);
id!(
    /// The id of a bulk.
    BulkId, "blk"
);
id!(
    /// The id of a template.
    TemplateId, "tpl"
);
id!(
    /// The id of a tenant. Every table with data of a tenant has it as a column, so that the schema can be sharded by
    /// tenant.
    ///
    /// The data of test keys belongs to the tenant's test tenant ([`test`](Self::test)), so that test and live data never
    /// meet. The id of a test tenant follows from that of its live tenant, so no lookup is needed.
    TenantId, "ten"
);
id!(
    /// The id of an action on all messages that match a filter.
    ActionId, "act"
);
id!(
    /// The id of an erasure of everything about one address.
    ErasureId, "era"
);
id!(
    /// The id of a worker: a process that delivers messages. It is new at each start.
    WorkerId, "wrk"
);
id!(
    /// The id of an inbound route.
    InboundRouteId, "irt"
);
id!(
    /// The id of a received message.
    ReceivedId, "rcv"
);
id!(
    /// The id of an entry of the audit log.
    AuditId, "aud"
);

/// The id of a lane. It is a number in the database and is formatted with a prefix like every other id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub i64);

impl LaneId {
    /// The id of a lane that does not exist yet; the database counts from 1.
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

impl<'de> serde::Deserialize<'de> for LaneId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom("must be a lane's id, such as lane_42"))
    }
}

/// The bit that only ids of test tenants have: the highest bit of the version. It is 0 in the nil UUID and in the
/// versions 1 to 7 of RFC 9562.
const TEST_BIT: u128 = 1 << 79;

impl TenantId {
    /// The tenant that the first migration creates.
    pub const DEFAULT: Self = Self(Uuid::nil());

    /// Returns the tenant that the test data of this tenant belongs to.
    #[must_use]
    pub fn test(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() | TEST_BIT))
    }

    /// Returns the tenant that has the domains, templates and keys of this tenant: of a test tenant, its live tenant.
    #[must_use]
    pub fn live(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() & !TEST_BIT))
    }

    /// Returns whether this is a test tenant, whose messages go to the simulator.
    pub fn is_test(self) -> bool {
        self.0.as_u128() & TEST_BIT != 0
    }
}

/// The primary key of a recipient of a stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipientKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The message.
    pub message: MessageId,
    /// The recipient.
    pub recipient: RecipientId,
}

impl EndpointId {
    /// Returns the `webhook-id` of a delivery of `events` events that starts at event `seq`. The id of a single event
    /// is the same on every attempt, even after a crash. The id of a batch includes the number of events: a batch may
    /// grow after a crash, and a receiver that has processed the smaller batch must not skip the new events.
    pub fn webhook_id(self, seq: i64, events: usize) -> String {
        let id = format!("evt_{}_{seq}", self.0.simple());
        if events > 1 { format!("{id}_{events}") } else { id }
    }
}

impl ReceivedId {
    /// Returns the time at which the message was received, in milliseconds, from the id's time part.
    pub fn time(self) -> DateTime<Utc> {
        PostId(self.0).time()
    }
}

impl PostId {
    /// Returns the time at which the delivery attempt started, in milliseconds, from the id's time part.
    pub fn time(self) -> DateTime<Utc> {
        let (seconds, nanos) = self.0.get_timestamp().map_or((0, 0), |time| time.to_unix());
        i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, nanos)).unwrap_or_default()
    }
}

impl TemplateId {
    /// Returns the time at which the template was created, in milliseconds, from the id's time part.
    pub fn created_at(self) -> DateTime<Utc> {
        MessageId(self.0).accepted_at()
    }
}

impl KeyId {
    /// Returns the time at which the API key was created, in milliseconds, from the id's time part.
    pub fn created_at(self) -> DateTime<Utc> {
        MessageId(self.0).accepted_at()
    }
}

impl BulkId {
    /// Returns the time at which the bulk was accepted, in milliseconds, from the id's time part.
    pub fn accepted_at(self) -> DateTime<Utc> {
        MessageId(self.0).accepted_at()
    }
}

/// Creates a `UUIDv7` whose time part is `at`.
pub fn uuid_at(at: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    // `Uuid::new_v7` would make a system call for every id.
    Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

impl MessageId {
    /// Returns the time at which the message was accepted, in milliseconds, from the id's time part.
    pub fn accepted_at(self) -> DateTime<Utc> {
        let millis = i64::try_from(self.0.as_u128() >> 80).ok();
        millis.and_then(DateTime::from_timestamp_millis).unwrap_or_default()
    }

    /// Returns the smallest possible id with this time part.
    pub fn first_at(moment: DateTime<Utc>) -> Self {
        let millis = u128::try_from(moment.timestamp_millis()).unwrap_or(0);
        Self(Uuid::from_u128(millis << 80))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_round_trips() {
        let id = MessageId::new(DateTime::UNIX_EPOCH);
        assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
    }

    #[test]
    fn lane_id_round_trips() {
        assert_eq!(LaneId(42).to_string().parse(), Ok(LaneId(42)));
        for text in ["42", "lane_", "lane_-1", "lane_+1", "lane_99999999999999999999", "msg_1"] {
            assert_eq!(text.parse::<LaneId>(), Err(()), "{text}");
        }
    }

    #[test]
    fn post_id_contains_its_time() {
        let start = DateTime::from_timestamp_millis(1_795_435_200_123).unwrap();
        assert_eq!(PostId::new(start).time(), start);
    }

    #[test]
    fn webhook_id_has_the_first_event_and_the_batch_size() {
        let endpoint: EndpointId = "wh_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b".parse().unwrap();
        assert_eq!(endpoint.webhook_id(42, 1), "evt_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b_42");
        assert_eq!(endpoint.webhook_id(42, 3), "evt_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b_42_3");
    }

    #[test]
    fn test_tenant_and_live_tenant_lead_to_each_other() {
        let version_7 = TenantId(Uuid::from_u128(0x019a_8f3c_2b7d_7c4e_8a1b_2c3d_4e5f_6a7b));
        for live in [TenantId::DEFAULT, version_7] {
            let test = live.test();
            assert!(test.is_test() && !live.is_test() && test != live);
            assert_eq!((test.live(), live.live(), test.test()), (live, live, test));
        }
        assert_eq!(TenantId::DEFAULT.test().0.to_string(), "00000000-0000-8000-0000-000000000000");
    }

    #[test]
    fn id_of_another_kind_is_rejected() {
        let id = RecipientId::new(DateTime::UNIX_EPOCH).to_string();
        assert!(id.parse::<MessageId>().is_err());
        assert!("msg_".parse::<MessageId>().is_err());
        assert!("msg_zz".parse::<MessageId>().is_err());
    }
}
