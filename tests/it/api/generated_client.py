"""Uses the client that was generated from `/openapi.json`. mypy checks this file with the client; a failed assertion
fails the test."""

import os

from postrider_client import AuthenticatedClient
from postrider_client.api.messages import get_message, get_message_raw, list_messages, send_message
from postrider_client.models import (
    AcceptedMessage,
    AddressParts,
    FaultCode,
    Message,
    MessageMetadata,
    MessageStatus,
    OnUncertain,
    PageMessage,
    Problem,
    ProblemCode,
    RecipientKind,
    SendRequest,
    TagInput,
)

URL = os.environ["POSTRIDER_API_URL"]
client = AuthenticatedClient(base_url=URL, token=os.environ["POSTRIDER_API_KEY"])

request = SendRequest(
    from_="Acme Billing <billing@acme.test>",
    to=["ann@example.test", AddressParts(email="bo@example.test", name="Bo Å")],
    subject="Your invoice",
    text="It is attached.",
    tags=[TagInput(name="kind", value="invoice")],
    metadata=MessageMetadata.from_dict({"order": "42"}),
    on_uncertain=OnUncertain.HOLD,
)
accepted = send_message.sync(client=client, body=request, idempotency_key="order-42")
assert isinstance(accepted, AcceptedMessage), accepted
again = send_message.sync(client=client, body=request, idempotency_key="order-42")
assert isinstance(again, AcceptedMessage) and again.id == accepted.id, again

message = get_message.sync(accepted.id, client=client)
assert isinstance(message, Message), message
assert message.subject == "Your invoice" and message.metadata["order"] == "42", message
assert message.status in set(MessageStatus) and message.on_uncertain is OnUncertain.HOLD, message
assert [recipient.kind for recipient in message.recipients] == [RecipientKind.TO] * 2, message

raw = get_message_raw.sync(accepted.id, client=client)
assert raw is not None and not isinstance(raw, Problem), raw
assert b"Subject: Your invoice\r\n" in raw.payload.read()

page = list_messages.sync(client=client, limit=1)
assert isinstance(page, PageMessage), page
assert [entry.id for entry in page.data] == [accepted.id] and not page.has_more, page

refused = send_message.sync(client=client, body=SendRequest(from_="billing@acme.test", to="nobody", text="Hello"))
assert isinstance(refused, Problem), refused
assert refused.status == 422 and refused.code is ProblemCode.INVALID_REQUEST, refused
faults = {fault.pointer: fault.code for fault in refused.errors}
assert faults["/to"] is FaultCode.INVALID_ADDRESS, faults

stranger = list_messages.sync(client=AuthenticatedClient(base_url=URL, token="pr_live_wrong"))
assert isinstance(stranger, Problem) and stranger.code is ProblemCode.UNAUTHORIZED, stranger
