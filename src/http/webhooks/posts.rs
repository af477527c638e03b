//! The `webhooks` section of the OpenAPI document: one entry for each event type, with an example and a schema of the
//! fields that the type sets.

use serde::Serialize;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, Paths, PathsBuilder,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, PathItem, Ref, RefOr, Required, ResponseBuilder};
use utoipa::{PartialSchema as _, ToSchema};

use crate::domain::event::{Event, EventData, EventType};

/// The `type` of a body with several events.
const BATCH: &str = "webhook.batch";
/// The tag of the requests that endpoints receive. It is not that of the operations on endpoints: generators make one
/// module for each tag.
const TAG: &str = "deliveries";

/// The body of requests to an endpoint whose `batch` is above 1, even for a single event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventBatch {
    /// Always `webhook.batch`.
    #[serde(rename = "type")]
    #[schema(example = "webhook.batch")]
    pub kind: &'static str,
    /// The events, in the order of their `seq`.
    pub events: Vec<Event>,
}

/// Returns all requests that webhook endpoints receive, by the `type` of the body.
pub(crate) fn posts() -> Paths {
    let events = EventType::ALL.into_iter().fold(PathsBuilder::new(), |paths, kind| {
        let body = body(event(kind), serde_json::to_value(kind.example()).ok());
        paths.path(kind.as_str(), post(kind.as_str(), kind.meaning(), body))
    });
    let example = EventBatch { kind: BATCH, events: vec![EventType::Accepted.example(), EventType::Relayed.example()] };
    let body = body(Ref::from_schema_name(EventBatch::name()).into(), serde_json::to_value(&example).ok());
    let meaning = "One or more events in one request, for an endpoint whose `batch` is above 1.";
    events.path(BATCH, post(BATCH, meaning, body)).build()
}

fn post(kind: &str, meaning: &str, body: RequestBody) -> PathItem {
    let operation = OperationBuilder::new()
        .tag(TAG)
        .summary(Some(format!("Receive {kind}")))
        .description(Some(meaning))
        .operation_id(Some(format!("on_{}", kind.replace('.', "_"))))
        .parameters(Some(headers()))
        .request_body(Some(body))
        .response(
            "2XX",
            ResponseBuilder::new().description("Received; any other status is a failure, and the delivery is retried"),
        )
        .response("410", ResponseBuilder::new().description("Gone; the endpoint is disabled"));
    PathItem::new(HttpMethod::Post, operation)
}

fn headers() -> [Parameter; 3] {
    let header = |name: &str, description: &str, example: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .example(Some(example.into()))
            .build()
    };
    [
        header(
            "webhook-id",
            "The id of the delivery, the same in every attempt; use it to detect duplicates. In a batch, use each event's `seq`",
            "evt_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7c_123",
        ),
        header("webhook-timestamp", "The time of the attempt, in seconds since 1970", "1795510800"),
        header(
            "webhook-signature",
            "`v1,` and the HMAC-SHA256 of id, timestamp and body (Standard Webhooks 1.0); several signatures are separated by spaces",
            "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
        ),
    ]
}

fn body(schema: RefOr<Schema>, example: Option<serde_json::Value>) -> RequestBody {
    let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
    RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True)).build()
}

/// Returns the schema of one event type, with the fields that are not null in it.
fn event(kind: EventType) -> RefOr<Schema> {
    let type_schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([kind.as_str()]));
    let data = kind
        .required_fields()
        .into_iter()
        .fold(ObjectBuilder::new(), |data, field| data.property(field, not_null(field)).required(field))
        .title(Some(type_name(kind, "Data")));
    let specific =
        ObjectBuilder::new().property("type", type_schema).property("data", data).required("type").required("data");
    let title = Some(type_name(kind, "Event"));
    AllOfBuilder::new().title(title).item(Ref::from_schema_name(Event::name())).item(specific).into()
}

/// Returns the name of a type for events of this kind, from which generated clients get their names:
/// `MessageBouncedEvent`.
fn type_name(kind: EventType, suffix: &str) -> String {
    let words = kind.as_str().split(['.', '_']);
    let capitalized =
        words.map(|word| word.chars().next().into_iter().flat_map(char::to_uppercase).chain(word.chars().skip(1)));
    capitalized.flatten().chain(suffix.chars()).collect()
}

/// Returns the schema of a field of `data` without null.
fn not_null(field: &str) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(data)) = EventData::schema() else { return RefOr::T(Schema::default()) };
    match data.properties.get(field).cloned().unwrap_or_default() {
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &object.schema_type {
                let mut types = types.iter().filter(|one| **one != Type::Null).cloned();
                object.schema_type = types.next().map_or(SchemaType::AnyValue, SchemaType::Type);
            }
            Schema::Object(object).into()
        }
        RefOr::T(Schema::Array(mut array)) => {
            array.schema_type = Type::Array.into();
            Schema::Array(array).into()
        }
        RefOr::T(Schema::OneOf(one_of)) => {
            one_of.items.into_iter().find(|item| matches!(item, RefOr::Ref(_))).unwrap_or_default()
        }
        other => other,
    }
}
