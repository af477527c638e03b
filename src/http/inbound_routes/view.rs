//! Inbound routes in API requests and responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::receiving::routes::InboundRouteRow;
use crate::domain::id::InboundRouteId;
use crate::domain::inbound::{InboundAction, RouteMatch};

/// An inbound route.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = InboundRoute)]
pub struct InboundRouteView {
    /// The route's id.
    #[schema(value_type = String, example = "irt_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: InboundRouteId,
    /// The addresses that the route matches: one address, `PREFIX+*@DOMAIN` or `*@DOMAIN`, in lower case.
    #[serde(rename = "match")]
    #[schema(example = "reply+*@reply.acme.test")]
    pub matches: String,
    /// What happens with a message.
    pub action: ActionView,
    /// When the route was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
}

/// What happens with a message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = InboundAction)]
#[serde(deny_unknown_fields)]
pub struct ActionView {
    /// The kind of action.
    #[serde(rename = "type")]
    #[schema(value_type = InboundAction, example = "webhook")]
    pub kind: String,
    /// Only with `relay`, and required then: the URL of the server to which messages are passed on,
    /// `smtp://[user:password@]host[:port][?tls=none|opportunistic|required]` or `smtps://…`. The password is stored encrypted and
    /// never returned. Private addresses need `inbound.allow_private_relays`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "smtp://mail.acme.test:25?tls=required", max_length = 1000)]
    pub to: Option<String>,
}

/// An inbound route to create.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInboundRouteBody {
    /// The addresses that the route matches: one address (`support@reply.acme.test`), all with a prefix and a `+`
    /// (`reply+*@reply.acme.test`), or all of a domain (`*@reply.acme.test`). If several routes match, the first of this order
    /// counts. Case does not matter.
    #[serde(rename = "match")]
    #[schema(example = "reply+*@reply.acme.test", max_length = 320)]
    pub matches: String,
    /// What happens with a message.
    pub action: ActionView,
}

/// A change of an inbound route.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InboundRouteChangeBody {
    /// What happens with a message from now on.
    pub action: ActionView,
}

impl InboundRouteView {
    pub(super) fn from_row(row: InboundRouteRow) -> Self {
        let InboundRouteRow { id, created_at, domain, kind, local, action, relay_to } = row;
        let matches = RouteMatch::from_row(&kind, local, domain).map(|route| route.to_string()).unwrap_or_default();
        Self { id: InboundRouteId(id), matches, action: ActionView { kind: action, to: relay_to }, created_at }
    }
}
