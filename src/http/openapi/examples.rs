//! An example of every request body, for the OpenAPI document. The button "Execute" in `/docs` sends the example, so
//! each must be valid. The examples work with `postrider dev`: the URL of the webhook endpoint is that of its own
//! receiver.

use serde_json::{Value, json};
use utoipa::openapi::{OpenApi as Document, RefOr};

use super::operations;

/// A bounce from another mail server.
const BOUNCE: &str = "From: MAILER-DAEMON@example.test\r\nTo: billing@acme.test\r\nSubject: Undelivered message\r\n\
    MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
    --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.test\r\n\r\n\
    Final-Recipient: rfc822; ann@example.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\
    Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n\r\n--b--\r\n";

/// A finished message.
const MESSAGE: &str = "From: Acme Billing <billing@acme.test>\r\nTo: ann@example.test\r\nSubject: Your invoice\r\n\
    MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nThank you for your order.\r\n";

/// Adds the examples to the document.
pub(super) fn add(document: &mut Document) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let Some(RefOr::T(body)) = &mut operation.request_body else { continue };
            for (content_type, content) in &mut body.content {
                let RefOr::T(content) = content else { continue };
                content.example = example(method, path, content_type).or(content.example.take());
            }
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one entry for each operation")]
fn example(method: &str, path: &str, content_type: &str) -> Option<Value> {
    Some(match (method, path, content_type) {
        ("POST", "/v1/messages", "multipart/form-data") => json!({
            "message": {
                "from": "Acme Billing <billing@acme.test>",
                "to": "ann@example.test",
                "subject": "Your invoice",
                "text": "It is attached.",
                "attachments": [{"filename": "invoice.pdf", "part": "invoice"}],
            },
            "invoice": "%PDF-1.4 …",
        }),
        ("PUT", "/v1/blobs/{sha256}", _) => json!("%PDF-1.4 …"),
        ("POST", "/v1/messages", "message/rfc822") => json!(MESSAGE),
        ("POST", "/v1/messages", _) => json!({
            "from": "Acme Billing <billing@acme.test>",
            "to": ["ann@example.test", {"email": "bo@example.test", "name": "Bo Å"}],
            "subject": "Your invoice",
            "text": "It is attached.",
            "html": "<p>It is attached.</p>",
            "attachments": [{"filename": "invoice.pdf", "content": "JVBERi0xLjQK", "content_type": "application/pdf"}],
            "tags": [{"name": "kind", "value": "invoice"}],
            "metadata": {"order": "42"},
        }),
        ("POST", "/v1/messages/batch", "multipart/form-data") => json!({
            "messages": [
                {
                    "from": "billing@acme.test", "to": "ann@example.test", "subject": "Our terms", "text": "Attached.",
                    "attachments": [{"filename": "terms.pdf", "part": "terms"}],
                },
                {
                    "from": "billing@acme.test", "to": "bo@example.test", "subject": "Our terms", "text": "Attached.",
                    "attachments": [{"filename": "terms.pdf", "part": "terms"}],
                },
            ],
            "terms": "%PDF-1.4 …",
        }),
        ("POST", "/v1/messages/batch", _) => json!({
            "messages": [
                {"from": "billing@acme.test", "to": "ann@example.test", "subject": "Invoice 41", "text": "It is due."},
                {
                    "from": "billing@acme.test", "to": ["bo@example.test"], "subject": "Invoice 42", "text": "It is due.",
                    "idempotency_key": "invoice-42",
                },
            ],
            "validation": "strict",
        }),
        ("POST", "/v1/messages/bulk", "multipart/form-data") => json!({
            "message": {
                "from": "Acme News <news@acme.test>",
                "subject": "We have moved",
                "text": "A map is attached.",
                "attachments": [{"filename": "map.pdf", "part": "map"}],
                "recipients": [{"to": "ann@example.test"}, {"to": "bo@example.test"}],
            },
            "map": "%PDF-1.4 …",
        }),
        ("POST", "/v1/messages/bulk", _) => json!({
            "from": "Acme News <news@acme.test>",
            "subject": "Our news",
            "text": "We have moved.",
            "recipients": [
                {"to": "ann@example.test", "metadata": {"customer": "41"}},
                {"to": {"email": "bo@example.test", "name": "Bo Å"}, "idempotency_key": "news-7-customer-42"},
            ],
        }),
        ("POST", "/v1/messages/actions", _) => {
            json!({"action": "cancel", "filter": {"stream": "bulk", "tag": "campaign:spring"}, "dry_run": true})
        }
        ("POST", "/v1/privacy/erase", _) => json!({"address": "ann@example.test", "dry_run": true}),
        ("POST", "/v1/templates", _) => json!({
            "name": "Receipt",
            "alias": "receipt",
            "subject": "Receipt {{ number }}",
            "html": "<p>Hello {{ name }},</p><table>{% for item in items %}<tr><td>{{ item.title }}</td><td>{{ item.price }}</td></tr>{% endfor %}</table>",
            "from": "Acme Billing <billing@acme.test>",
            "variables": [
                {"key": "name", "type": "string", "default": "customer", "max_length": 100},
                {"key": "number", "type": "number"},
                {"key": "items", "type": "array"},
            ],
        }),
        ("PATCH", "/v1/templates/{id}", _) => json!({"subject": "Your receipt {{ number }}"}),
        ("POST", "/v1/templates/{id}/preview", _) => {
            json!({"variables": {"name": "Ann", "number": 42, "items": [{"title": "Tea", "price": "4.20"}]}})
        }
        ("POST", "/v1/templates/validate", _) => json!({
            "subject": "Receipt {{ number }}",
            "html": "<p>Hello {{ name }},</p>{% for item in items %}<p>{{ item.title }}</p>{% endfor %}",
        }),
        ("PATCH", "/v1/messages/{id}", _) => json!({"scheduled_at": "2026-12-01T09:00:00Z"}),
        ("POST", "/v1/inbound", _) => json!(BOUNCE),
        ("PUT", "/v1/lanes", _) => {
            json!({"stream": "bulk", "route": "relay", "domain": "*", "connections": 4, "rate": 10})
        }
        ("PATCH", "/v1/lanes/{id}", _) => json!({"connections": 2, "rate": null}),
        ("POST", "/v1/lanes/{id}/trace", _) => json!({"attempts": 10}),
        ("POST", "/v1/tenants", _) => {
            json!({"name": "Acme", "weight": 100, "quota": {"recipients_per_day": 1_000_000}})
        }
        ("PATCH", "/v1/tenants/{id}", _) => {
            json!({"weight": 200, "min_priority": 20, "rate": {"requests_per_second": 100, "burst": 200}})
        }
        ("POST", "/v1/tenants/{id}/suspend", _) => json!({"reason": "The invoice is overdue."}),
        ("POST", "/v1/lanes/{id}/pause" | "/v1/streams/{name}/pause", _) => {
            json!({"reason": "The relay is being moved."})
        }
        ("POST", "/v1/streams", _) => json!({"name": "newsletters", "rate": 50, "retry_window": "1d"}),
        ("PATCH", "/v1/streams/{name}", _) => json!({"rate": 20, "retry_schedule": ["1m", "10m", "1h"]}),
        ("POST", "/v1/webhooks", _) => json!({
            "url": "http://127.0.0.1:8080/dev/hooks",
            "events": ["message.relayed", "message.bounced"],
            "description": "The receiver of `postrider dev`",
        }),
        ("PATCH", "/v1/webhooks/{id}", _) => json!({"events": ["message.bounced"], "batch": 10}),
        ("POST", "/v1/webhooks/{id}/replay", _) => json!({"after_seq": 0}),
        ("POST", "/v1/inbound-routes", _) => json!({"match": "reply+*@reply.acme.test", "action": {"type": "webhook"}}),
        ("PATCH", "/v1/inbound-routes/{id}", _) => json!({"action": {"type": "store"}}),
        ("POST", "/v1/domains", _) => json!({"name": "acme.test"}),
        ("POST", "/v1/keys", _) => json!({
            "name": "shop", "scopes": ["send", "read"], "sender_domains": ["acme.test"],
            "rate": {"requests_per_second": 10, "burst": 20},
        }),
        ("POST", "/v1/test/clock", _) => json!({"advance": "2h"}),
        ("PATCH", "/v1/keys/{id}", _) => json!({"allowed_ips": null, "quota": {"recipients_per_day": 50_000}}),
        ("POST", "/v1/suppressions", _) => json!([
            {"address": "carol@example.test", "note": "opted out by phone"},
            {"address": "dan@example.test", "stream": "bulk"},
        ]),
        ("POST", "/v1/suppressions/remove", _) => json!([{"address": "carol@example.test"}]),
        ("POST", "/v1/suppressions/import", "text/csv") => json!("address,reason\ncarol@example.test,manual\n"),
        ("POST", "/v1/suppressions/import", _) => json!("{\"address\":\"carol@example.test\",\"reason\":\"manual\"}\n"),
        _ => return None,
    })
}
