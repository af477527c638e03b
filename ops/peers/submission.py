"""Mail clients that send through Postrider's submission."""

import json
import re
import smtplib
import ssl
import sys
from email.message import EmailMessage

from packages import Unavailable
from service import DOMAIN, EIGHT_BIT, RECIPIENT, SENDER, expect, message

UNICODE_RECIPIENT = "jürgen@example.test"
WRONG_KEY = "pr_live_wrong"

NODEMAILER = """
const [secure, port, user, pass, from, to, name] = JSON.parse(process.argv[1]);
const nodemailer = require("nodemailer");
const ca = require("fs").readFileSync(process.env.CERTIFICATE);
const transport = nodemailer.createTransport({host: "127.0.0.1", port, secure, requireTLS: !secure, auth: {user, pass}, tls: {ca}});
transport.sendMail({
  from: {name: "Acme Büro", address: from}, to, subject: `name-${name}`, text: "Grüße.\\n.\\nBye.", html: "<p>Grüße</p>",
  attachments: [{filename: "größe.pdf", content: Buffer.from("%PDF-1.4")}], headers: {"X-Postrider-Tag": `peer=${name}`},
}).then(done => console.log(done.response), error => { console.log(error.code, error.response); process.exitCode = 1; });
"""


def run(report, service, root):
    swaks(report, service, root)
    msmtp(report, service, root)
    curl(report, service, root)
    python(report, service)
    nodemailer(report, service, root)


def version(root, pattern, *command):
    """Returns the version that a program prints, or raises Unavailable."""
    if not root.has(command[0]):
        raise Unavailable(f"{command[0]} is not there")
    output = root.run(*command)[1]
    found = re.search(pattern, output)
    return found[1] if found else output.strip().splitlines()[-1]


def swaks(report, service, root):
    with report.program("swaks") as program:
        program.version = version(root, r"version (\S+)", "swaks", "--version")
        plain, tls = ("--tls", service.submission), ("--tls-on-connect", service.submission_tls)

        def send(name, how, *options, key=service.key, mechanism="PLAIN", to=RECIPIENT, data=None):
            command = ["swaks", "--server", "127.0.0.1", "--port", how[1], "--from", SENDER, "--to", to, *options]
            if how[0]:
                command += [how[0], "--tls-verify", "--tls-ca-path", service.certificate]
            if mechanism:
                command += ["--auth", mechanism, "--auth-user", "swaks", "--auth-password", key]
            return root.run(*command, "--data", "-", text=(data or message(name)).replace("\r\n", "\n").encode())

        def accepted(name, *arguments, texts=(), **options):
            code, output = send(name, *arguments, **options)
            expect(code == 0, output)
            found = service.delivered(name, *texts)
            expect(f"250 2.0.0 queued as {found['id']}" in output, output)
            return output

        for name, what, how, mechanism in (
            ("swaks-starttls-plain", "STARTTLS, AUTH PLAIN", plain, "PLAIN"),
            ("swaks-starttls-login", "STARTTLS, AUTH LOGIN", plain, "LOGIN"),
            ("swaks-tls-plain", "TLS from the start, AUTH PLAIN", tls, "PLAIN"),
            ("swaks-tls-login", "TLS from the start, AUTH LOGIN", tls, "LOGIN"),
            ("swaks-loopback", "no TLS, from the same machine", (None, service.submission), "PLAIN"),
        ):
            with program.case(what):
                accepted(name, how, mechanism=mechanism, texts=["Hello.\r\n.\r\n..\r\nBye.\r\n"])
        with program.case("PIPELINING"):
            output = accepted("swaks-pipeline", plain, "--pipeline")
            expect("PIPELINING" in output, output)
        with program.case("PIPELINING with a refused recipient"):
            # swaks sends DATA in the same group as RCPT.
            code, output = send("swaks-refused", plain, "--pipeline", to=f"{RECIPIENT},not@valid@example.test")
            expect(re.search(r"<\*\* 5\d\d 5\.1\.3", output) or "501 5.1.3" in output, output)
            service.delivered("swaks-refused")
        with program.case("8BITMIME"):
            accepted("swaks-8bit", plain, data=message("swaks-8bit", *EIGHT_BIT, body="Grüße\r\n"), texts=["Grüße"])
        with program.case("wrong password: 535"):
            code, output = send("swaks-wrong", plain, key=WRONG_KEY)
            expect(code == 28 and "535 5.7.8" in output, output)
            service.not_accepted("swaks-wrong")
        with program.case("no sign-in: 530"):
            code, output = send("swaks-nobody", plain, mechanism=None)
            expect(code != 0 and "530 5.7.0" in output, output)
            service.not_accepted("swaks-nobody")
        with program.case("a message that is too large: 552"):
            size = 4 << 20
            code, output = send("swaks-large", plain, data=message("swaks-large", body="x" * 70 + "\r\n") + ("x" * 70 + "\r\n") * (size // 72))
            expect(code != 0 and "552 5.3.4" in output, output[-500:])
            service.not_accepted("swaks-large")


def msmtp(report, service, root):
    with report.program("msmtp") as program:
        program.version = version(root, r"msmtp version (\S+)", "msmtp", "--version")

        def send(name, starttls, mechanism, key, to=RECIPIENT, data=None):
            port = service.submission if starttls else service.submission_tls
            settings = [
                "account default", "host 127.0.0.1", f"port {port}", "tls on", f"tls_starttls {'on' if starttls else 'off'}",
                f"tls_trust_file {service.certificate}", f"auth {mechanism}", "user msmtp", f"password {key}", f"from {SENDER}",
            ]  # fmt: skip
            root.write("/etc/msmtp-test", "\n".join(settings) + "\n", 0o600)
            text = (data or message(name)).replace("\r\n", "\n").encode()
            return root.run("msmtp", "-C", "/etc/msmtp-test", "--debug", to, text=text)

        for name, starttls, mechanism in (
            ("msmtp-starttls-plain", True, "plain"),
            ("msmtp-starttls-login", True, "login"),
            ("msmtp-tls", False, "on"),
        ):
            with program.case(f"{'STARTTLS' if starttls else 'TLS from the start'}, auth {mechanism}"):
                code, output = send(name, starttls, mechanism, service.key)
                expect(code == 0, output)
                service.delivered(name, "Hello.\r\n.\r\n..\r\nBye.\r\n")
        with program.case("wrong password: 535"):
            code, output = send("msmtp-wrong", True, "plain", WRONG_KEY)
            expect(code != 0 and "535 5.7.8" in output, output)
            service.not_accepted("msmtp-wrong")
        with program.case("a recipient that is not valid: refused, with the reply"):
            code, output = send("msmtp-recipient", True, "plain", service.key, to="ann@exa_mple..test")
            expect(code != 0 and "5.1.3" in output, output)


def curl(report, service, root):
    with report.program("curl") as program:
        program.version = version(root, r"curl (\S+)", "curl", "--version")

        def send(name, url, *options, key=service.key, to=RECIPIENT, data=None):
            command = ["curl", "-sSv", url, "--cacert", service.certificate, "--user", f"curl:{key}", "--upload-file", "-"]
            command += ["--mail-from", SENDER, "--mail-rcpt", to, *options]
            return root.run(*command, text=(data or message(name)).encode())

        starttls, tls = f"smtp://127.0.0.1:{service.submission}", f"smtps://127.0.0.1:{service.submission_tls}"
        for name, what, url, options in (
            ("curl-starttls", "STARTTLS (smtp://, --ssl-reqd)", starttls, ["--ssl-reqd"]),
            ("curl-tls", "TLS from the start (smtps://)", tls, []),
            ("curl-login", "AUTH LOGIN without an initial response", tls, ["--login-options", "AUTH=LOGIN"]),
            ("curl-sasl-ir", "AUTH PLAIN with an initial response", tls, ["--login-options", "AUTH=PLAIN", "--sasl-ir"]),
        ):
            with program.case(what):
                code, output = send(name, url, *options)
                expect(code == 0, output)
                found = service.delivered(name, "Hello.\r\n.\r\n..\r\nBye.\r\n")
                expect(f"250 2.0.0 queued as {found['id']}" in output, output)
        with program.case("SMTPUTF8"):
            data = message("curl-utf8", *EIGHT_BIT, recipient=UNICODE_RECIPIENT)
            code, output = send("curl-utf8", tls, to=UNICODE_RECIPIENT, data=data)
            expect(code == 0, output)
            service.delivered("curl-utf8", recipient=UNICODE_RECIPIENT)
        with program.case("wrong password: 535"):
            code, output = send("curl-wrong", starttls, "--ssl-reqd", key=WRONG_KEY)
            expect(code == 67 and "535 5.7.8" in output, output)
        with program.case("line ends of LF alone: 550 5.5.2"):
            code, output = send("curl-lf", tls, data=message("curl-lf").replace("\r\n", "\n"))
            expect(code != 0 and "550 5.5.2" in output, output)
            service.not_accepted("curl-lf")


def python(report, service):
    with report.program("Python smtplib") as program:
        program.version = sys.version.split()[0]
        trusted = ssl.create_default_context(cafile=service.certificate)

        def client(starttls=True, key=service.key):
            if starttls:
                smtp = smtplib.SMTP("127.0.0.1", service.submission, timeout=30)
                smtp.starttls(context=trusted)
            else:
                smtp = smtplib.SMTP_SSL("127.0.0.1", service.submission_tls, timeout=30, context=trusted)
            smtp.login("python", key)
            return smtp

        def mail(name, to=RECIPIENT):
            built = EmailMessage()
            built["From"], built["To"], built["Subject"] = f"Acme Büro <{SENDER}>", to, f"name-{name}"
            built["X-Postrider-Tag"] = f"peer={name}"
            built.set_content("Grüße.\n.\nBye.\n", cte="8bit")
            return built

        for name, starttls in (("python-starttls", True), ("python-tls", False)):
            with program.case("STARTTLS" if starttls else "TLS from the start"):
                with client(starttls) as smtp:
                    smtp.send_message(mail(name))
                service.delivered(name, "Grüße.\r\n.\r\nBye.")
        with program.case("three messages in one session, with a refused one"):
            with client() as smtp:
                smtp.send_message(mail("python-first"))
                try:
                    smtp.sendmail(SENDER, [RECIPIENT], "Subject: no sender\r\n\r\nx")
                    expect(False, "a message without a sender was accepted")
                except smtplib.SMTPDataError as error:
                    expect(error.smtp_code == 550, str(error))
                smtp.send_message(mail("python-third"))
            service.delivered("python-first")
            service.delivered("python-third")
        with program.case("SMTPUTF8"):
            with client() as smtp:
                smtp.send_message(mail("python-utf8", UNICODE_RECIPIENT))
            service.delivered("python-utf8", recipient=UNICODE_RECIPIENT)
        with program.case("one of two recipients is refused"):
            with client() as smtp:
                refused = smtp.sendmail(SENDER, [RECIPIENT, "bad@exa_mple..test"], message("python-partly"))
            expect(list(refused) == ["bad@exa_mple..test"], str(refused))
            service.delivered("python-partly")
        with program.case("wrong password: 535"):
            try:
                client(key=WRONG_KEY)
                expect(False, "a wrong key was accepted")
            except smtplib.SMTPAuthenticationError as error:
                expect(error.smtp_code == 535, str(error))


def nodemailer(report, service, root):
    with report.program("nodemailer") as program:
        if not root.has("node"):
            raise Unavailable("Node.js is not there")
        modules = "/usr/share/nodejs:/usr/lib/nodejs:/usr/share/node_modules"
        environment = ["env", f"NODE_PATH={modules}", f"CERTIFICATE={service.certificate}"]
        node = lambda script, *arguments: root.run(*environment, "node", "-e", script, *arguments)
        code, output = node('console.log(require("nodemailer/package.json").version + ", Node.js " + process.versions.node)')
        if code != 0:
            raise Unavailable("nodemailer is not there")
        program.version = output.strip()

        def send(name, secure, key=service.key):
            port = service.submission_tls if secure else service.submission
            return node(NODEMAILER, json.dumps([secure, port, "node", key, f"hello@{DOMAIN}", RECIPIENT, name]))

        for name, secure in (("node-starttls", False), ("node-tls", True)):
            with program.case("TLS from the start" if secure else "STARTTLS"):
                code, output = send(name, secure)
                expect(code == 0, output)
                found = service.delivered(name)
                expect(f"250 2.0.0 queued as {found['id']}" in output, output)
        with program.case("wrong password: 535"):
            code, output = send("node-wrong", False, WRONG_KEY)
            expect(code == 1 and "EAUTH" in output and "535 5.7.8" in output, output)
