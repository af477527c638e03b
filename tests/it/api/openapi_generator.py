"""Uses the client that openapi-generator has made from `/openapi.json`. A failed assertion fails the test."""

import os

from postrider_client import ApiClient, Configuration, MessagesApi, WebhooksApi
from postrider_client.exceptions import UnauthorizedException, UnprocessableEntityException
from postrider_client.models import (
    AcceptedMessage,
    AddressesInput,
    AddressInput,
    AddressParts,
    EventType,
    FaultCode,
    Message,
    MessageStatus,
    NewWebhookBody,
    OnUncertain,
    Problem,
    ProblemCode,
    RecipientKind,
    SendRequest,
    TagInput,
    WebhookWithSecret,
)

URL, KEY = os.environ["POSTRIDER_API_URL"], os.environ["POSTRIDER_API_KEY"]
client = ApiClient(Configuration(host=URL, access_token=KEY))
messages, webhooks = MessagesApi(client), WebhooksApi(client)

request = SendRequest(
    var_from=AddressInput("Acme Billing <billing@acme.test>"),
    to=AddressesInput(
        [AddressInput("ann@example.test"), AddressInput(AddressParts(email="bo@example.test", name="Bo Å"))]
    ),
    subject="Your invoice",
    text="It is attached.",
    tags=[TagInput(name="kind", value="invoice")],
    metadata={"order": "42"},
    on_uncertain=OnUncertain.HOLD,
)
accepted = messages.send_message(request, idempotency_key="order-42")
assert isinstance(accepted, AcceptedMessage), accepted
assert messages.send_message(request, idempotency_key="order-42").id == accepted.id

message = messages.get_message(accepted.id)
assert isinstance(message, Message), message
assert message.subject == "Your invoice" and message.metadata == {"order": "42"}, message
assert message.status in set(MessageStatus) and message.on_uncertain is OnUncertain.HOLD, message
assert [recipient.kind for recipient in message.recipients] == [RecipientKind.TO] * 2, message
assert b"Subject: Your invoice\r\n" in messages.get_message_raw(accepted.id)
page = messages.list_messages(limit=1)
assert [entry.id for entry in page.data] == [accepted.id] and page.has_more is False, page

webhook = webhooks.create_webhook(NewWebhookBody(url=f"{URL}/hooks", events=[EventType.MESSAGE_BOUNCED]))
assert isinstance(webhook, WebhookWithSecret) and webhook.secret.startswith("whsec_"), webhook
assert [entry.id for entry in webhooks.list_webhooks().data] == [webhook.id]

try:
    nobody = AddressesInput(AddressInput("nobody"))
    messages.send_message(SendRequest(var_from=AddressInput("billing@acme.test"), to=nobody, text="Hello"))
    raise AssertionError("no error")
except UnprocessableEntityException as error:
    problem = error.data
    assert isinstance(problem, Problem) and problem.code is ProblemCode.INVALID_REQUEST, problem
    assert {fault.pointer: fault.code for fault in problem.errors}["/to"] is FaultCode.INVALID_ADDRESS, problem
try:
    MessagesApi(ApiClient(Configuration(host=URL, access_token="pr_live_wrong"))).list_messages()
    raise AssertionError("no error")
except UnauthorizedException as error:
    assert isinstance(error.data, Problem) and error.data.code is ProblemCode.UNAUTHORIZED, error
