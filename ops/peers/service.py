"""The service under test: Postrider with its database, a certificate, keys, an inbound route and a relay."""

import json
import secrets
import subprocess
import time
import urllib.error
import urllib.request

from lab import POSTRIDER, free_port, is_ready, wait_for

DOMAIN = "acme.test"
SENDER = f"hello@{DOMAIN}"
RECIPIENT = "ann@example.test"
# Messages to this domain are delivered to the sink by the mail servers themselves: bounces come back to it.
PEERS = "peers.test"
ROUTES = f"reply.{DOMAIN}"
# Small limits, so that messages beyond them are quick.
MAX_RECEIVED_MIB = 1
MAX_MESSAGE_MIB = 3
EIGHT_BIT = ("MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit")
DELIVERED = ("relayed", "delivered")


class Failure(Exception):
    """A case did not end as it must."""


def until(what, check, limit=30):
    """Waits until `check` returns a true value, and returns it."""
    end = time.monotonic() + limit
    while not (found := check()):
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {limit} s")
        time.sleep(0.05)
    return found


def expect(condition, text):
    if not condition:
        raise Failure(text)


class Service:
    def __init__(self, lab):
        self.lab, self.mailbox = lab, lab.sink
        self.certificate = lab.directory / "certificate.pem"
        self.submission, self.submission_tls, self.inbound, api = (free_port() for _ in range(4))
        self.url = f"http://127.0.0.1:{api}"
        self.environment = lab.service(lab.primary("primary").port, **self.settings(api))
        self.key = lab.key(self.environment)
        command = ["keys", "create", "--name", "operator", "--scope", "admin"]
        self.admin = lab.command(self.environment, *command).stdout.strip()
        lab.start("postrider", [POSTRIDER, "serve"], self.environment)
        wait_for("the service", lambda: is_ready(self.url))
        for match in ("support", "reply+*"):
            body = {"match": f"{match}@{ROUTES}", "action": {"type": "store"}}
            self.call("/v1/inbound-routes", body)

    def settings(self, api):
        key = self.lab.directory / "certificate.key"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
        subprocess.run([*command, *names, "-keyout", key, "-out", self.certificate], check=True, capture_output=True)
        certificate = {"CERT_FILE": str(self.certificate), "KEY_FILE": str(key)}
        settings = {
            "LISTEN": f"127.0.0.1:{api}",
            "SECRET_KEY": secrets.token_urlsafe(33),
            "ACCEPT__MAX_BODY_MIB": str(MAX_MESSAGE_MIB),
            "RETURN_PATH__DOMAIN": f"return.{DOMAIN}",
            "INBOUND__LISTEN": f"127.0.0.1:{self.inbound}",
            # There is no DNS here.
            "INBOUND__AUTHENTICATE": "false",
            "INBOUND__MAX_MESSAGE_MIB": str(MAX_MESSAGE_MIB),
            "INBOUND__MAX_RECEIVED_MIB": str(MAX_RECEIVED_MIB),
            "SUBMISSION__LISTEN": f"127.0.0.1:{self.submission}",
            "SUBMISSION__TLS_LISTEN": f"127.0.0.1:{self.submission_tls}",
            **{f"{section}__{name}": value for section in ("INBOUND", "SUBMISSION") for name, value in certificate.items()},
        }
        return {f"POSTRIDER_{name}": value for name, value in settings.items()}

    def call(self, path, body=None):
        headers = {"Authorization": f"Bearer {self.admin}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise Failure(f"{path}: {error.code} {error.read().decode()}") from None

    def delivered(self, name, *texts, recipient=RECIPIENT):
        """Waits until the message with this tag is delivered, once. Returns it as the API shows it."""
        found = until(f"a message with the tag peer={name}", lambda: self.call(f"/v1/messages?tag=peer%3A{name}")["data"])
        expect(len(found) == 1, f"{len(found)} messages were accepted")
        get = lambda: self.call(f"/v1/messages/{found[0]['id']}")
        statuses = lambda: [one["status"] for one in get()["recipients"]]
        until(f"the delivery of {found[0]['id']}", lambda: all(status in DELIVERED for status in statuses()))
        arrived = self.mailbox.find(recipient, f"name-{name}\r\n")
        expect(len(arrived) == 1, f"{len(arrived)} messages arrived")
        for text in texts:
            expect(text.encode() in arrived[0], f"{text!r} is not in the delivered message:\n{arrived[0].decode(errors='replace')}")
        return get()

    def received(self, subject, *texts):
        """Waits until a message with this subject was received, once. Returns it with its content."""
        select = lambda: [one for one in self.call("/v1/received?limit=100")["data"] if one["subject"] == subject]
        found = until(f"a received message {subject!r}", select)
        expect(len(found) == 1, f"{len(found)} messages were received")
        message = self.call(f"/v1/received/{found[0]['id']}")
        for text in texts:
            expect(text in (message["text"] or ""), f"{text!r} is not in {message['text']!r}")
        return message

    def not_received(self, subject):
        listed = self.call("/v1/received?limit=100")["data"]
        expect(all(one["subject"] != subject for one in listed), "the message was received")

    def not_accepted(self, name):
        listed = self.call(f"/v1/messages?tag=peer%3A{name}")["data"]
        expect(not listed, "the message was accepted")


def message(name, *fields, body="Hello.\r\n.\r\n..\r\nBye.\r\n", sender=SENDER, recipient=RECIPIENT):
    """Returns a message that `delivered` finds by its name."""
    lines = [f"From: Acme <{sender}>", f"To: {recipient}", f"Subject: name-{name}", f"X-Postrider-Tag: peer={name}", *fields]
    return "\r\n".join(lines) + "\r\n\r\n" + body
