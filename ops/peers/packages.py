"""The programs of other projects: fetched as Debian packages, unpacked, and run in roots of their own.

Mail servers conflict with each other as packages and have fixed paths, so none is installed. Each gets a root that shows
this machine's files with those of its packages on top. What it writes is in memory, and gone with the mount.
"""

import pathlib
import shutil
import subprocess

# What is unpacked for each root. Programs that the machine has itself need no package.
PACKAGES = {
    "clients": ["swaks", "libnet-ssleay-perl", "msmtp", "curl", "node-nodemailer"],
    "postfix": ["postfix", "libsasl2-modules"],
    "exim": ["exim4-daemon-light"],
    "opensmtpd": ["opensmtpd"],
}
# The users that the packages would create when they are installed.
USERS = {
    "clients": [],
    "postfix": ["postfix", "postdrop"],
    "exim": ["Debian-exim"],
    "opensmtpd": ["opensmtpd", "opensmtpq"],
}
FIRST_ID = 29_000


class Unavailable(Exception):
    """A program cannot be had on this machine."""


def is_fetched(directory, name):
    return (directory / name / "complete").exists()


def fetch(directory, name):
    """Unpacks the packages of a root, with what they need and this machine lacks. Nothing is installed."""
    if is_fetched(directory, name):
        return
    folder = directory / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "archives/partial").mkdir(parents=True)
    apt = ["apt-get", "-qq", "install", "--download-only", "--no-install-recommends", "--reinstall", "-y"]
    options = [f"Dir::Cache::archives={folder}/archives", "Debug::NoLocking=1", "APT::Sandbox::User=root"]
    run([*apt, *(part for option in options for part in ("-o", option)), *PACKAGES[name]])
    archives = sorted((folder / "archives").glob("*.deb"))
    for archive in archives:
        run(["dpkg", "-x", str(archive), str(folder / "files")])
    merge_usr(folder / "files")
    names = [archive.name for archive in archives]
    (folder / "complete").write_text("\n".join(names) + "\n")


def run(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed") from None
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


def merge_usr(files):
    """Moves what a package has in /lib to /usr/lib, and so on: a directory would hide this machine's link."""
    for name in ("bin", "lib", "lib64", "sbin"):
        if (files / name).is_dir() and pathlib.Path("/", name).is_symlink():
            shutil.copytree(files / name, files / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(files / name)


class Root:
    """A directory that shows this machine's files with unpacked packages on top. The mounts end with the namespace."""

    def __init__(self, lab, packages, name):
        self.lab, self.name = lab, name
        layers, self.path = lab.directory / f"layers-{name}", lab.directory / f"root-{name}"
        layers.mkdir()
        self.path.mkdir()
        # On a file system in memory, because an overlay cannot be written to another overlay, such as a container's root.
        run(["mount", "-t", "tmpfs", "layers", str(layers)])
        (layers / "work").mkdir()
        # Not as a lower layer, because it may be a part of the other one.
        run(["cp", "-a", str(packages / name / "files"), str(layers / "changed")])
        options = f"lowerdir=/,upperdir={layers}/changed,workdir={layers}/work"
        run(["mount", "-t", "overlay", "overlay", "-o", options, str(self.path)])
        run(["mount", "--rbind", "/dev", str(self.path / "dev")])
        run(["mount", "-t", "proc", "proc", str(self.path / "proc")])
        for number, user in enumerate(USERS[name]):
            self.add_user(user, FIRST_ID + number)

    def add_user(self, name, number):
        for file, line in (("passwd", f"{name}:x:{number}:{number}::/nonexistent:/bin/false"), ("group", f"{name}:x:{number}:")):
            with open(self.path / "etc" / file, "a", encoding="utf-8") as users:
                users.write(line + "\n")

    def write(self, path, text, mode=0o644):
        file = self.path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        return file

    def folder(self, path, owner=None, mode=0o755):
        folder = self.path / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        if owner:
            number = FIRST_ID + USERS[self.name].index(owner)
            shutil.chown(folder, number, number)

    def command(self, *command):
        return ["chroot", str(self.path), *map(str, command)]

    def run(self, *command, text=None, limit=60):
        """Runs a program to its end. Returns its exit code, and its output with its errors."""
        done = subprocess.run(
            self.command(*command), input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, cwd="/"
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def start(self, *command):
        return self.lab.start(self.name, self.command(*command))

    def has(self, program):
        return self.run("sh", "-c", f"command -v {program}")[0] == 0
