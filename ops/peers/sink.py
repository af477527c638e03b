"""The relay that Postrider delivers to, which is also the mailbox of bounces: an SMTP server that keeps every message."""

import re
import socketserver
import threading

PATH = re.compile(rb"<(.*?)>")


class Mailbox(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Session)
        self.messages, self.lock = [], threading.Lock()

    def keep(self, recipients, data):
        with self.lock:
            self.messages.append((recipients, data))

    def find(self, recipient, *texts):
        """Returns the messages to a recipient that contain all these texts."""
        with self.lock:
            messages = list(self.messages)
        return [
            data
            for recipients, data in messages
            if recipient.encode() in recipients and all(text.encode() in data for text in texts)
        ]


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            self.converse()
        except OSError:
            pass  # The client is gone.

    def converse(self):
        reply = lambda text: self.wfile.write(text + b"\r\n")
        recipients = []
        reply(b"220 sink ESMTP")
        while line := self.rfile.readline():
            command = line[:4].upper()
            if command == b"EHLO":
                reply(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8")
            elif command in (b"MAIL", b"RSET"):
                recipients = []
                reply(b"250 ok")
            elif command == b"RCPT":
                recipients.append(PATH.search(line)[1])
                reply(b"250 ok")
            elif command == b"DATA":
                reply(b"354 go on")
                data = bytearray()
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    data += line[1:] if line.startswith(b".") else line
                if not line:
                    return
                self.server.keep(recipients, bytes(data))
                reply(b"250 accepted")
            elif command == b"QUIT":
                reply(b"221 bye")
                return
            else:
                reply(b"250 ok")
