"""Real SSH servers on loopback addresses, with keys made for them."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.monitor.ssh import Address

_WAIT_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """A folder with a host's key, a user's key, and the files that let the one into the other."""

    folder: Path

    @property
    def host_key(self) -> Path:
        return self.folder / "host"

    @property
    def user_key(self) -> Path:
        return self.folder / "user"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def know(self, *names: str) -> None:
        """Let the host's key be known under names; a port other than 22 stands in the name."""
        kind, text, *_ = self.host_key.with_suffix(".pub").read_text().split()
        with self.known_hosts.open("a") as stream:
            stream.writelines(f"{name} {kind} {text}\n" for name in names)


def make_keys(folder: Path, *, kind: str = "ed25519", passphrase: str = "") -> Keys:
    """Make both keys."""
    folder.mkdir(parents=True)
    keys = Keys(folder=folder)
    for path, words in ((keys.host_key, ""), (keys.user_key, passphrase)):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", words, "-C", "", "-f", path], check=True)
    authorized = folder / "authorized_keys"
    authorized.write_text(keys.user_key.with_suffix(".pub").read_text())
    authorized.chmod(0o600)
    return keys


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def sshd(program: str, keys: Keys, *, host: str = "127.0.0.1", more: str = "") -> Iterator[Address]:
    """Run a server; it and the sessions that it has begun are ended on the way out."""
    port = free_port(host)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    config = keys.folder / f"sshd-{host}-{port}.conf"
    # The first word on a setting holds: what a test asks for stands first.
    config.write_text(
        f"{more}\nListenAddress {host}:{port}\nHostKey {keys.host_key}\n"
        f"AuthorizedKeysFile {keys.folder}/authorized_keys\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nLogLevel ERROR\nAcceptEnv none\nUseDNS no\nMaxStartups 200\n"
    )
    with subprocess.Popen([program, "-D", "-f", config, "-E", config.with_suffix(".log")]) as server:
        try:
            deadline = time.monotonic() + _WAIT_S
            while True:
                with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
                    break
                assert server.poll() is None, config.with_suffix(".log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            keys.know(f"[{host}]:{port}")
            yield Address(host=host, port=port, user=getpass.getuser(), key_files=(keys.user_key,))
        finally:
            server.terminate()
