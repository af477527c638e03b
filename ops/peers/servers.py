"""Other mail servers: each takes messages over SMTP and passes them on, by the domain of the recipient, to Postrider's
SMTP server for incoming messages, to its submission, or to the sink."""

import re
import socket

from lab import free_port
from packages import Unavailable
from service import PEERS, ROUTES, until


class MailServer:
    # Whether it sends in chunks (BDAT) to servers that take them.
    CHUNKS = False

    def __init__(self, service, root):
        self.service, self.root, self.port = service, root, free_port()
        self.sink = service.mailbox.server_address[1]
        if not root.has(self.PROGRAM):
            raise Unavailable(f"{self.PROGRAM} is not there")
        self.configure()
        self.start()
        self.version = self.read_version()

    def wait(self):
        def listens():
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", self.port)) == 0

        until(f"{self.root.name} on its port", listens)


class Postfix(MailServer):
    NAME, PROGRAM, UTF8, SUBMITS_WITH = "Postfix", "postfix", True, "STARTTLS, AUTH PLAIN"
    SERVICES = """
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

    def configure(self):
        service = self.service
        relay = f"[127.0.0.1]:{service.submission}"
        self.root.write("/etc/postfix/master.cf", self.SERVICES.format(port=self.port))
        self.root.write(
            "/etc/postfix/main.cf",
            f"""
compatibility_level = 3.6
queue_directory = /var/spool/postfix
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
data_directory = /var/lib/postfix
mail_owner = postfix
setgid_group = postdrop
maillog_file = /var/log/postfix.log
myhostname = postfix.{PEERS}
mydestination =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
message_size_limit = 20000000
smtputf8_enable = yes
relayhost = {relay}
transport_maps = inline:{{ {{ {ROUTES} = smtp:[127.0.0.1]:{service.inbound} }}, {{ {PEERS} = smtp:[127.0.0.1]:{self.sink} }} }}
smtp_tls_security_level = encrypt
smtp_tls_CAfile = {service.certificate}
smtp_tls_policy_maps = inline:{{ {{ [127.0.0.1]:{self.sink} = none }} }}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{{ {{ {relay} = postfix:{service.key} }} }}
smtp_sasl_security_options = noanonymous
""",
        )
        dynamic = self.root.path / "usr/share/postfix/dynamicmaps.cf"
        if dynamic.exists():
            self.root.write("/etc/postfix/dynamicmaps.cf", dynamic.read_text())
        self.root.folder("/var/lib/postfix", "postfix")
        self.root.folder("/var/spool/postfix")

    def start(self):
        self.root.start("postfix", "start-fg")
        self.wait()

    def read_version(self):
        return self.root.run("postconf", "-h", "mail_version")[1].strip()

    def log(self):
        path = self.root.path / "var/log/postfix.log"
        return path.read_text(errors="replace") if path.exists() else ""


class Exim(MailServer):
    NAME, PROGRAM, CHUNKS, SUBMITS_WITH = "Exim", "exim4", True, "TLS from the start, AUTH PLAIN"

    def configure(self):
        service = self.service
        build = self.root.run("exim4", "-bV")[1]
        self.UTF8 = " I18N" in build
        utf8 = "smtputf8_advertise_hosts = *" if self.UTF8 else ""
        self.root.write(
            "/etc/exim4/exim4.conf",
            f"""
keep_environment =
primary_hostname = exim.{PEERS}
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
acl_smtp_rcpt = accept_all
tls_advertise_hosts =
message_size_limit = 20M
{utf8}

begin acl
accept_all:
  accept

begin routers
receiving:
  driver = manualroute
  domains = {ROUTES}
  transport = receiving
  route_list = * 127.0.0.1
  self = send
sink:
  driver = manualroute
  domains = {PEERS}
  transport = sink
  route_list = * 127.0.0.1
  self = send
submission:
  driver = manualroute
  transport = submission
  route_list = * 127.0.0.1
  self = send

begin transports
receiving:
  driver = smtp
  port = {service.inbound}
  hosts_require_tls = *
sink:
  driver = smtp
  port = {self.sink}
  hosts_avoid_tls = *
submission:
  driver = smtp
  protocol = smtps
  port = {service.submission_tls}
  hosts_require_auth = *
  tls_verify_certificates = {service.certificate}
  tls_verify_hosts = *
  tls_verify_cert_hostnames =

begin retry
* * F,5m,5s

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^exim^{service.key}
""",
        )
        for folder in ("/var/spool/exim4", "/var/log/exim4"):
            self.root.folder(folder, "Debian-exim", 0o750)

    def start(self):
        self.root.start("exim4", "-bdf", "-q5s")
        self.wait()

    def used_chunks(self, transport):
        return re.search(rf"=> .* T={transport} .* K C=", self.log())

    def read_version(self):
        return re.search(r"version (\S+)", self.root.run("exim4", "-bV")[1])[1]

    def log(self):
        files = sorted((self.root.path / "var/log/exim4").glob("*"))
        return "".join(file.read_text(errors="replace") for file in files)


class OpenSmtpd(MailServer):
    # OpenSMTPD has no SMTPUTF8.
    NAME, PROGRAM, UTF8, SUBMITS_WITH = "OpenSMTPD", "smtpd", False, "STARTTLS, AUTH PLAIN"

    def configure(self):
        service = self.service
        self.root.write("/etc/smtpd-secrets", f"postrider opensmtpd:{service.key}\n", 0o600)
        self.root.write(
            "/etc/smtpd.conf",
            f"""
smtp max-message-size "20M"
table secrets file:/etc/smtpd-secrets
listen on 127.0.0.1 port {self.port} hostname opensmtpd.{PEERS}
action receiving relay host smtp+tls://127.0.0.1:{service.inbound} tls no-verify
action sink relay host smtp+notls://127.0.0.1:{self.sink}
action submission relay host smtp+tls://postrider@127.0.0.1:{service.submission} auth <secrets> tls no-verify
match from any for domain "{ROUTES}" action receiving
match from any for domain "{PEERS}" action sink
match from any for any action submission
""",
        )
        self.root.write("/etc/mailname", f"opensmtpd.{PEERS}\n")
        self.root.folder("/var/spool/smtpd", mode=0o711)
        self.root.folder("/var/lib/opensmtpd/empty")

    def start(self):
        self.root.start("smtpd", "-d")
        self.wait()

    def read_version(self):
        return re.search(r"OpenSMTPD (\S+)", self.root.run("smtpd", "-h")[1])[1]

    def log(self):
        path = self.service.lab.directory / "opensmtpd.log"
        return path.read_text(errors="replace")


SERVERS = {"postfix": Postfix, "exim": Exim, "opensmtpd": OpenSmtpd}
