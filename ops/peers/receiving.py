"""Mail servers that deliver to Postrider's inbound routes, and send through its submission."""

import re
import smtplib

from servers import SERVERS
from service import EIGHT_BIT, MAX_MESSAGE_MIB, MAX_RECEIVED_MIB, PEERS, RECIPIENT, ROUTES, SENDER, expect, message, until



def run(report, service, name, root):
    kind = SERVERS[name]
    with report.program(kind.NAME) as program:
        server = kind(service, root())
        program.version = server.version
        program.log = server.log
        submit(program, service, server, name)
        receive(program, service, server, name)
        refuse(program, service, server, name)


def hand_over(server, sender, recipient, text, *options):
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as smtp:
        smtp.ehlo()
        data = text.encode()
        smtp.sendmail(sender, [recipient], data, mail_options=[*options])


def submit(program, service, server, name):
    with program.case(f"sends through submission: {server.SUBMITS_WITH}"):
        hand_over(server, SENDER, RECIPIENT, message(f"{name}-submits"))
        service.delivered(f"{name}-submits", "Hello.\r\n.\r\n..\r\nBye.\r\n")
        expect_chunks(program, server, "submission")
    with program.case("sends through submission: three messages, 8-bit text"):
        for number in range(3):
            hand_over(server, SENDER, RECIPIENT, message(f"{name}-many-{number}", *EIGHT_BIT, body="Grüße\r\n"), "BODY=8BITMIME")
        for number in range(3):
            service.delivered(f"{name}-many-{number}", "Grüße")
    with program.case("submission refuses the sender: 550 in its bounce"):
        # No sender in the header. The bounce goes to the envelope's sender.
        sender = f"{name}-refused@{PEERS}"
        text = f"From: not an address\r\nTo: {RECIPIENT}\r\nSubject: name-{name}-refused\r\n\r\nHello.\r\n"
        hand_over(server, sender, RECIPIENT, text)
        bounce = until("a bounce", lambda: service.mailbox.find(sender))[0]
        expect(b"550" in bounce, bounce.decode(errors="replace"))


def expect_chunks(program, server, transport):
    """Checks that a server that can sends in chunks (BDAT)."""
    if server.CHUNKS:
        until("the message in the log, sent in chunks", lambda: server.used_chunks(transport), limit=5)
        program.note("in chunks, BDAT")


def receive(program, service, server, name):
    sender = f"ann@{PEERS}"
    incoming = lambda subject, to, *fields, body="Hello.\r\n.\r\n..\r\nBye.\r\n": "\r\n".join(
        [f"From: Ann <{sender}>", f"To: {to}", f"Subject: {subject}", f"Message-ID: <{subject}@{PEERS}>", *fields, "", body]
    )
    support = f"support@{ROUTES}"
    with program.case("delivers to a route over TLS"):
        hand_over(server, sender, support, incoming(f"{name}-plain", support))
        found = service.received(f"{name}-plain", "Hello.")
        expect(found["text"].replace("\r\n", "\n").startswith("Hello.\n.\n..\nBye."), repr(found["text"]))
        expect_chunks(program, server, "receiving")
        expect(found["to"] == [support] and found["envelope"]["from"] == sender, str(found["envelope"]))
    with program.case("delivers a reply, which is tied to the message"):
        sent = service.call("/v1/messages", {"from": SENDER, "to": RECIPIENT, "subject": f"name-{name}-thread", "text": "?",
                                              "tags": [{"name": "peer", "value": f"{name}-thread"}]})  # fmt: skip
        service.delivered(f"{name}-thread")
        data = service.mailbox.find(RECIPIENT, f"name-{name}-thread\r\n")[0].decode()
        fields = {field.lower(): value for field, _, value in (line.partition(": ") for line in data.splitlines())}
        to = f"reply+42@{ROUTES}"
        reply = (f"In-Reply-To: {fields['message-id']}", f"References: {fields['message-id']}")
        hand_over(server, sender, to, incoming(f"{name}-reply", to, *reply))
        found = service.received(f"{name}-reply")
        expect(found["answers"] == sent["id"], f"answers is {found['answers']}, and the message is {sent['id']}")
    with program.case("8BITMIME"):
        hand_over(server, sender, support, incoming(f"{name}-8bit", support, *EIGHT_BIT, body="Grüße\r\n"), "BODY=8BITMIME")
        service.received(f"{name}-8bit", "Grüße")
    what = "SMTPUTF8"
    if not server.UTF8:
        program.skip(what, "not supported by it")
        return
    with program.case(what):
        to, subject = f"reply+jürgen@{ROUTES}", f"{name}-grüße"
        hand_over(server, sender, to, incoming(subject, to), "SMTPUTF8", "BODY=8BITMIME")
        found = service.received(subject)
        expect(found["to"] == [to], str(found["to"]))


def refuse(program, service, server, name):
    with program.case("an unknown recipient: 550 5.1.1 in its bounce"):
        sender, to = f"{name}-unknown@{PEERS}", f"nobody@{ROUTES}"
        hand_over(server, sender, to, f"From: <{sender}>\r\nTo: {to}\r\nSubject: {name}-unknown\r\n\r\nHello.\r\n")
        bounce = until("a bounce", lambda: service.mailbox.find(sender))[0].decode(errors="replace")
        expect("550 5.1.1" in bounce, bounce)
        service.not_received(f"{name}-unknown")
    for what, mib in (("routes take", MAX_RECEIVED_MIB), ("SIZE announces", MAX_MESSAGE_MIB)):
        with program.case(f"a message larger than {what}: a bounce"):
            sender, to, size = f"{name}-{mib}-mib@{PEERS}", f"support@{ROUTES}", (mib << 20) + (200 << 10)
            line = "x" * 70 + "\r\n"
            text = f"From: <{sender}>\r\nTo: {to}\r\nSubject: {name}-{mib}-mib\r\n\r\n" + line * (size // len(line))
            hand_over(server, sender, to, text)
            bounce = until("a bounce", lambda: service.mailbox.find(sender))[0].decode(errors="replace")
            program.note(" ".join(reason(bounce).split())[:200])
            service.not_received(f"{name}-{mib}-mib")


def reason(bounce):
    """Returns what a bounce says about the failure."""
    found = re.search(r"552 5\.3\.4 .*\n?.*|message size .*\n?.*|message too large.*", bounce)
    return found[0] if found else bounce[:500]
