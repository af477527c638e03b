//! The retention rule of each table. A test compares the list with the schema, so that no table grows forever by oversight.

use super::Class;

/// When the rows of a table are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// By weeks, with this class.
    Weeks(Class),
    /// With the row that they belong to, in the named table.
    With(&'static str),
    /// After a time, by the code that the text names.
    After(&'static str),
    /// When what they describe ends or is removed; their number is bounded by what the text names.
    Bounded(&'static str),
}

/// Tables with their rules, in alphabetical order.
pub const RULES: &[(&str, Rule)] = &[
    ("_sqlx_migrations", Rule::Bounded("migrations")),
    ("audit_log", Rule::After("retention.audit")),
    ("blob_chunks", Rule::With("blobs")),
    ("blob_references", Rule::Weeks(Class::Content)),
    ("blobs", Rule::After("retention.unused_blobs, once no content refers to them")),
    ("bulk_messages", Rule::With("messages")),
    ("bulk_recipients", Rule::Bounded("recipients that are to become messages")),
    ("bulks", Rule::With("messages")),
    ("contents", Rule::Weeks(Class::Content)),
    ("custom_message_ids", Rule::Weeks(Class::Messages)),
    ("dashboard_sessions", Rule::After("the end of a session, when another one starts")),
    ("deleted_events", Rule::Bounded("tenants")),
    ("dkim_keys", Rule::With("domains")),
    ("domains", Rule::Bounded("sender domains")),
    ("erasure_keys", Rule::Bounded("tenants")),
    ("erasures", Rule::Bounded("erasures on request, kept as evidence; without the address once they have ended")),
    ("event_counters", Rule::Bounded("tenants")),
    ("events", Rule::Weeks(Class::Events)),
    ("idempotency_keys", Rule::With("messages")),
    ("greylist", Rule::After("inbound.greylist, or 35 days for those that passed")),
    ("inbound_routes", Rule::Bounded("inbound routes")),
    ("installation", Rule::Bounded("one row")),
    ("key_changes", Rule::Bounded("one row")),
    ("key_usage", Rule::With("keys")),
    ("keys", Rule::Bounded("API keys; revoked ones are kept, so that their ids in messages and logs can be resolved")),
    ("lane_traces", Rule::Bounded("lanes")),
    ("lanes", Rule::Bounded("streams, routes and destinations")),
    ("message_actions", Rule::After("retention.actions")),
    ("messages", Rule::Weeks(Class::Messages)),
    ("pauses", Rule::After("90 days, when a pause ends")),
    ("permits", Rule::With("workers")),
    ("queue", Rule::Bounded("recipients that have not reached an end state")),
    ("queue_sampled", Rule::After("2 days (minutes), 366 days (hours); days are kept")),
    ("queue_samples", Rule::After("2 days (minutes), 366 days (hours); days are kept")),
    ("queue_sampling", Rule::Bounded("one row")),
    ("received_messages", Rule::After("retention.received")),
    ("recipients", Rule::Weeks(Class::Messages)),
    ("relays", Rule::After("retention.received, once the message has ended")),
    ("retention_runs", Rule::Bounded("one row")),
    ("retention_weeks", Rule::Bounded("weeks and classes")),
    ("service_metrics", Rule::Bounded("one row")),
    ("simulator_followups", Rule::Bounded("reports that are to come, within 7 days")),
    ("smtp_conversations", Rule::After("retention.conversations, and with messages")),
    ("sql_inbox", Rule::Bounded("messages that no process has accepted yet; refused ones are kept for an operator")),
    ("sql_senders", Rule::Bounded("roles of the database server that may send")),
    ("sql_settings", Rule::Bounded("one row")),
    ("statistics", Rule::After("2 days (minutes), 366 days (hours); days are kept")),
    ("statistics_cursors", Rule::Bounded("tenants")),
    ("statistics_details", Rule::After("2 days (minutes), 366 days (hours); days are kept")),
    ("stream_permits", Rule::With("workers")),
    ("streams", Rule::Bounded("streams")),
    ("suppressions", Rule::Bounded("addresses that must not be sent to, until they expire or are removed")),
    ("template_versions", Rule::With("templates")),
    ("templates", Rule::Bounded("templates")),
    ("tenant_change_counter", Rule::Bounded("one row")),
    ("tenant_changes", Rule::Bounded("tenants, and the kinds of their settings")),
    ("tenant_deletions", Rule::With("tenants")),
    ("tenant_usage", Rule::With("tenants")),
    ("tenants", Rule::Bounded("tenants; of deleted ones the id is kept")),
    (
        "unreferenced_objects",
        Rule::After("a day after an interrupted upload, and at once when an attachment is deleted"),
    ),
    ("uploads", Rule::After("a day after an interrupted upload")),
    ("webhook_attempts", Rule::Weeks(Class::WebhookLog)),
    ("webhook_endpoints", Rule::Bounded("webhook endpoints")),
    ("webhook_retries", Rule::With("webhook_endpoints")),
    ("workers", Rule::After("the lease of a dead worker")),
];

/// Returns the rule of a table.
pub fn of(table: &str) -> Option<Rule> {
    RULES.iter().find(|(name, _)| *name == table).map(|(_, rule)| *rule)
}
