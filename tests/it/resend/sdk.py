"""Uses Postrider through Resend's own SDK, with nothing changed but the URL. Any failed assertion fails the test."""

import base64
import json
import os
import sys
import time

import resend
from resend.exceptions import (
    InvalidApiKeyError,
    MissingRequiredFieldsError,
    ResendError,
    ValidationError,
)

EMAIL = {
    "from": "Acme <billing@acme.test>",
    "to": ["ann@example.test"],
    "subject": "Your invoice",
    "html": "<p>Hello <b>Ann</b></p>",
}


def raises(kind, code, call):
    try:
        call()
    except ResendError as error:
        assert type(error) is kind and error.code == code, (type(error), error.code, error.error_type, str(error))
        return error
    raise AssertionError("no error")


def emails():
    data = bytes(range(256))
    attachments = [
        {"filename": "list.bin", "content": list(data)},
        {"filename": "text.bin", "content": base64.b64encode(data).decode()},
        {"filename": "logo.png", "content": list(data), "content_id": "logo"},
    ]
    tags = [{"name": "kind", "value": "invoice"}]
    options = {"idempotency_key": "order-42"}
    params = {**EMAIL, "attachments": attachments, "tags": tags, "headers": {"X-Entity-Ref": "42"}}
    sent = resend.Emails.send(params, options)
    assert resend.Emails.send(params, options)["id"] == sent["id"]
    raises(ResendError, 409, lambda: resend.Emails.send({**params, "subject": "Other"}, options))

    email = resend.Emails.get(sent["id"])
    assert email["object"] == "email" and email["to"] == ["ann@example.test"], email
    assert email["html"] == EMAIL["html"] and email["text"].strip() == "Hello Ann", email
    assert email["tags"] == tags and email["last_event"] == "queued", email
    files = resend.Emails.Attachments.list(sent["id"])["data"]
    assert [file["filename"] for file in files] == ["list.bin", "text.bin", "logo.png"], files
    one = resend.Emails.Attachments.get(sent["id"], files[0]["id"])
    import requests

    for file in [one, *files]:
        assert requests.get(file["download_url"]).content == data, file
    listed = resend.Emails.list({"limit": 1})
    assert listed["data"][0]["id"] == sent["id"] and listed["has_more"] is False, listed

    scheduled = resend.Emails.send({**EMAIL, "scheduled_at": "in 1 hour"})
    resend.Emails.update({"id": scheduled["id"], "scheduled_at": "in 2 hours"})
    assert resend.Emails.get(scheduled["id"])["last_event"] == "scheduled"
    assert resend.Emails.cancel(email_id=scheduled["id"])["id"] == scheduled["id"]
    assert resend.Emails.get(scheduled["id"])["last_event"] == "canceled"


def batches():
    batch = resend.Batch.send([EMAIL, {**EMAIL, "subject": "Two"}])
    assert len(batch["data"]) == 2, batch
    permissive = resend.Batch.send([EMAIL, {**EMAIL, "to": "nobody"}], {"batch_validation": "permissive"})
    assert len(permissive["data"]) == 1 and permissive["errors"][0]["index"] == 1, permissive


def errors():
    error = raises(MissingRequiredFieldsError, 422, lambda: resend.Emails.send({**EMAIL, "subject": ""}))
    assert error.message == "Missing `subject` field.", error.message
    raises(ValidationError, 422, lambda: resend.Emails.send({**EMAIL, "to": "nobody"}))
    raises(ResendError, 404, lambda: resend.Emails.get("019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b"))
    raises(ResendError, 404, lambda: resend.Emails.metrics())
    key, resend.api_key = resend.api_key, "re_wrong"
    raises(InvalidApiKeyError, 403, lambda: resend.Emails.send(EMAIL))
    resend.api_key = key


def templates():
    created = resend.Templates.create(
        {
            "name": "Welcome",
            "alias": "welcome",
            "subject": "Welcome {{{NAME}}}",
            "html": "<p>Hello {{{NAME}}}</p>",
            "variables": [{"key": "NAME", "type": "string", "fallback_value": "you"}],
        }
    )
    resend.Templates.update({"id": created["id"], "name": "Welcome mail"})
    resend.Templates.publish(created["id"])
    assert resend.Templates.get("welcome")["status"] == "published"
    sent = resend.Emails.send(
        {"from": EMAIL["from"], "to": "ann@example.test", "template": {"id": "welcome", "variables": {"NAME": "Ann"}}}
    )
    assert resend.Emails.get(sent["id"])["subject"] == "Welcome Ann"
    copy = resend.Templates.duplicate(created["id"])
    assert {one["id"] for one in resend.Templates.list()["data"]} == {created["id"], copy["id"]}
    assert resend.Templates.remove(copy["id"])["deleted"] is True


def admin():
    domain = resend.Domains.create({"name": "acme.test"})
    assert any(record["record"] == "DKIM" for record in domain["records"]), domain
    assert resend.Domains.get(domain["id"])["name"] == "acme.test"
    assert [one["id"] for one in resend.Domains.list()["data"]] == [domain["id"]]
    resend.Domains.verify(domain["id"])
    key = resend.ApiKeys.create({"name": "shop", "permission": "sending_access", "domain_id": domain["id"]})
    assert key["token"] and any(one["id"] == key["id"] for one in resend.ApiKeys.list()["data"])
    resend.ApiKeys.remove(api_key_id=key["id"])
    assert resend.Domains.remove(domain_id=domain["id"])["deleted"] is True

    entry = resend.Suppressions.add({"email": "gone@example.test"})
    assert resend.Suppressions.get("gone@example.test")["id"] == entry["id"]
    assert resend.Suppressions.list({"origin": "manual"})["data"][0]["id"] == entry["id"]
    assert resend.Suppressions.remove(entry["id"])["deleted"] is True


def create_webhook():
    webhook = resend.Webhooks.create({"endpoint": os.environ["HOOK_URL"], "events": ["email.sent"]})
    assert resend.Webhooks.get(webhook["id"])["status"] == "enabled"
    resend.Emails.send(EMAIL)
    print(webhook["signing_secret"])


def verify_webhook():
    delivery = json.load(sys.stdin)
    options = {"payload": delivery["body"], "headers": delivery["headers"], "webhook_secret": delivery["secret"]}
    event = resend.Webhooks.verify(options)
    assert event["type"] == "email.sent" and event["data"]["subject"] == EMAIL["subject"], event
    try:
        resend.Webhooks.verify({**options, "payload": delivery["body"] + " "})
    except ValueError:
        return
    raise AssertionError("a changed payload is accepted")


for step in sys.argv[1:]:
    started = time.monotonic()
    globals()[step]()
    print(f"{step}: ok in {time.monotonic() - started:.2f} s", file=sys.stderr)
