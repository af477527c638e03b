"""What the proofs in this directory and in `ops/peers/` share: servers, an SMTP sink, clients, and HAProxy."""

import collections
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
POSTRIDER = os.environ.get("POSTRIDER", str(ROOT / "target/release/postrider"))
NAME = re.compile(rb"^Subject: (message-[a-z0-9-]+)\r?$", re.MULTILINE)
DEFAULTS = [
    "defaults",
    "  timeout connect 2s",
    "  timeout client 1h",
    "  timeout server 1h",
]


def find(name):
    """Returns the path of a program of Postgres, or of another one on PATH."""
    # Debian's programs of Postgres on PATH are slow wrappers of these.
    paths = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    found = paths[-1] if paths else shutil.which(name)
    if found is None:
        sys.exit(f"error: {name} is not installed")
    return found


def inherited():
    """Returns the environment without settings: Postrider refuses variables of that prefix that it does not know."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POSTRIDER_")}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, check, limit=60):
    """Waits until `check` returns a true value, and returns it."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.05)
    sys.exit(f"error: {what}: not within {limit} s")


class Sink(socketserver.ThreadingTCPServer):
    """An SMTP server that counts how often each message arrives."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Session)
        self.counts = collections.Counter()
        self.lock = threading.Lock()


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            self.converse()
        except OSError:
            pass  # The client is gone.

    def converse(self):
        reply = lambda text: self.wfile.write(text + b"\r\n")
        reply(b"220 sink")
        while line := self.rfile.readline():
            command = line[:4].upper()
            if command == b"EHLO":
                reply(b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME")
            elif command == b"DATA":
                reply(b"354 go on")
                data = bytearray()
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    data += line
                if not line:
                    return
                with self.server.lock:
                    self.server.counts[NAME.search(data)[1].decode()] += 1
                reply(b"250 accepted")
            elif command == b"QUIT":
                reply(b"221 bye")
                return
            else:
                reply(b"250 ok")


class Postgres:
    """A server in a directory of its own."""

    def __init__(self, directory):
        self.data, self.port = directory, free_port()
        # Postgres refuses to run as root.
        self.user = "postgres" if os.getuid() == 0 else None

    def run(self, program, *arguments):
        done = subprocess.run([find(program), *arguments], user=self.user, cwd="/", capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"error: {program}: {done.stderr}")
        return done.stdout

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.data.parent} -c max_connections=300"
        self.run("pg_ctl", "-D", str(self.data), "-l", f"{self.data}.log", "-o", options, "-w", "start")

    def sql(self, statement):
        arguments = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", "postgres", "-Atc", statement]
        return self.run("psql", *arguments).strip()

    def kill(self):
        """Kills all processes of the server: the postmaster first, so that it cannot restart the others."""
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(["ps", "--ppid", str(postmaster), "-o", "pid="], capture_output=True, text=True)
        for pid in [postmaster, *map(int, children.stdout.split())]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def stop(self):
        subprocess.run([find("pg_ctl"), "-D", str(self.data), "-m", "immediate", "stop"], user=self.user, cwd="/", capture_output=True)


class Clients:
    """Clients that send messages, and repeat a request with its idempotency key until it is answered with 202."""

    def __init__(self, url, key, count, name="client"):
        self.url, self.key, self.name, self.stopping = url, key, name, threading.Event()
        self.accepted, self.times, self.errors, self.lock = set(), [], collections.Counter(), threading.Lock()
        self.threads = [threading.Thread(target=self.send, args=(number,)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def send(self, client):
        number = 0
        while not self.stopping.is_set():
            number += 1
            name = f"message-{self.name}-{client}-{number}"
            body = {"from": "shop@acme.test", "to": f"c{client}@example.test", "subject": name, "text": "Thank you."}
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", "Idempotency-Key": name}
            request = urllib.request.Request(f"{self.url}/v1/messages", json.dumps(body).encode(), headers)
            # A request that was begun is repeated after the end, too: it may have been committed.
            while not self.attempt(request):
                time.sleep(0.1)
            with self.lock:
                self.accepted.add(name)
                self.times.append(time.monotonic())

    def attempt(self, request):
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status == 202
        except urllib.error.HTTPError as error:
            kind = str(error.code)
        except OSError as error:
            kind = type(error).__name__
        with self.lock:
            self.errors[kind] += 1
        return False

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout=120)


def longest_gap(times, start, end):
    """Returns the longest time between two acceptances between `start` and `end`."""
    inside = sorted(time for time in times if start <= time <= end)
    points = [start, *inside, end]
    return max(after - before for before, after in zip(points, points[1:]))


class Lab:
    """A temporary directory, and the processes and servers that run in it."""

    def __init__(self, name, sink=None):
        self.name, self.processes, self.servers = name, [], []
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"postrider-{name}-"))
        self.directory.chmod(0o755)
        self.sink = sink or Sink()
        threading.Thread(target=self.sink.serve_forever, daemon=True).start()
        # Ends like Ctrl-C, so that the servers are stopped.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def progress(self, text):
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def start(self, name, command, environment=None):
        """Starts a process whose output goes to a file."""
        with open(self.directory / f"{name}.log", "wb") as log:
            environment = {**inherited(), **(environment or {})}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.directory)
        self.processes.append(process)
        return process

    def postgres(self, name):
        """Returns a server that is not yet created."""
        folder = self.directory / "postgres"
        folder.mkdir(exist_ok=True)
        server = Postgres(folder / name)
        if server.user:
            shutil.chown(folder, server.user)
        self.servers.append(server)
        return server

    def primary(self, name):
        """Creates and starts a server."""
        server = self.postgres(name)
        server.run("initdb", "-D", str(server.data), "-U", "postgres", "-A", "trust")
        server.start()
        return server

    def haproxy(self, lines):
        config = self.directory / "haproxy.cfg"
        config.write_text("\n".join(lines) + "\n")
        self.start("haproxy", [find("haproxy"), "-db", "-f", str(config)])

    def service(self, database_port, state="state", **settings):
        """Returns the environment of a service on the database at this port."""
        return {
            "DATABASE_URL": f"postgres://postgres@127.0.0.1:{database_port}/postgres?sslmode=disable",
            "POSTRIDER_RELAY_URL": f"smtp://127.0.0.1:{self.sink.server_address[1]}?tls=none",
            "POSTRIDER_RESTORE_GUARD__STATE": str(self.directory / state),
            **settings,
        }

    def command(self, environment, *arguments):
        return subprocess.run(
            [POSTRIDER, *arguments], env={**inherited(), **environment}, capture_output=True, text=True, cwd=self.directory
        )

    def key(self, environment):
        """Brings the schema up to date, and returns a new API key."""
        wait_for("the schema", lambda: self.command(environment, "migrate").returncode == 0)
        return self.command(environment, "keys", "create", "--name", "load", "--scope", "send").stdout.strip()

    def delivered(self, accepted, limit=120):
        """Waits until all these messages arrived or the limit passes. Returns how often each message arrived."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            with self.sink.lock:
                counts = dict(self.sink.counts)
            if not accepted - counts.keys():
                break
            time.sleep(0.5)
        return counts

    def finish(self, report, as_json):
        """Prints the report, and exits with 1 if a message was lost or arrived without having been sent."""
        failed = bool(report["lost"] or report["phantom"])
        if as_json:
            print(json.dumps(report))
        else:
            for name, value in report.items():
                print(f"{name:<36} {value}")
        self.stop()
        if failed:
            print(f"The logs are in {self.directory}.", file=sys.stderr)
        else:
            shutil.rmtree(self.directory)
        sys.exit(1 if failed else 0)

    def stop(self):
        for process in self.processes:
            process.kill()
        for server in self.servers:
            server.stop()


def is_ready(url):
    """Returns whether a service, or one behind HAProxy, is ready."""
    try:
        return urllib.request.urlopen(f"{url}/readyz", timeout=5).status == 200
    except OSError:
        return False


def tally(accepted, counts):
    """Compares the messages that were acknowledged with those that arrived."""
    return {
        "lost": len(accepted - counts.keys()),
        "phantom": len(counts.keys() - accepted),
        "duplicates": sum(count - 1 for count in counts.values()),
    }
