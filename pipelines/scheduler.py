"""The scheduler of one job on a cluster: Luigi's, behind TLS and a password, for as long as somebody asks it.

A node of a cluster has users that are nobody's colleagues, and Luigi's own server asks nobody who they are. So the
scheduler draws a password and a certificate each time it starts and leaves both in a folder that only its user opens.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hmac
import ipaddress
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from pathlib import Path

import luigi.server
from luigi.scheduler import Scheduler
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.netutil import bind_sockets
from tornado.routing import AnyMatches, Matcher, Rule, RuleRouter
from tornado.web import Application, RequestHandler

from pipelines.base import now
from tasks.errors import MissingPackageError, UsageError
from tasks.files import make_folder, write_atomically

CONFIGURATION = "luigi.cfg"
"""What a worker's LUIGI_CONFIG_PATH names: where the scheduler is, and the password."""

CERTIFICATE = "certificate.pem"
"""What a worker's SSL_CERT_FILE and REQUESTS_CA_BUNDLE name."""

_OPTIONS = {
    "worker_disconnect_delay": 5,
    "retry_delay": 2,
    "prune_on_get_work": True,
    "remove_delay": 120,
    "record_task_history": False,
    "batch_emails": False,
}
"""As in configs/luigid/luigi.cfg, which says why."""

_USER = "scanward"
_VALID = dt.timedelta(days=365)
_BOUND = "[core]\ndefault-scheduler-url = https://{user}:{password}@{address}:{port}/\n"


class _KnowsPassword(Matcher):
    """Lets through who sends the password (RFC 7617)."""

    def __init__(self, password: str) -> None:
        self._expected = b"Basic " + base64.b64encode(f"{_USER}:{password}".encode("ascii"))

    def match(self, request: HTTPServerRequest) -> dict[str, object] | None:
        """Return what tornado wants to know of a request that fits, which is nothing."""
        given = request.headers.get("Authorization", "").encode("utf-8", "replace")
        return {} if hmac.compare_digest(given, self._expected) else None


class _Refusal(RequestHandler):
    """What everybody else is told."""

    def prepare(self) -> None:
        """Ask for the password."""
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="scanward"')
        self.finish("This scheduler serves one job alone.\n")


def run_scheduler(options: argparse.Namespace) -> int:
    """Serve until nobody asks any more, or until told to stop; nothing is left behind."""
    folder: Path = options.folder.absolute()
    make_folder(folder, mode=0o700)
    try:
        sockets = bind_sockets(options.port, address=options.address)
    except OSError as fault:
        problem = f"Nobody can listen on {options.address or 'this host'}, port {options.port}."
        raise UsageError(problem=problem, remedy="Give another --address or --port.") from fault
    port = sockets[0].getsockname()[1]
    address = options.address or own_address()
    password = secrets.token_urlsafe(24)
    scheduler = Scheduler(**_OPTIONS)  # type: ignore[no-untyped-call] # Luigi's
    router = RuleRouter(
        [
            Rule(_KnowsPassword(password), luigi.server.app(scheduler)),  # type: ignore[no-untyped-call] # Luigi's
            Rule(AnyMatches(), Application([(".*", _Refusal)])),
        ]
    )
    server = HTTPServer(router, ssl_options=_draw_certificate(folder, address))
    server.add_sockets(sockets)
    named = f"[{address}]" if ":" in address else address
    configuration = _BOUND.format(user=_USER, password=password, address=named, port=port)
    loop = IOLoop.current()
    last_asked = time.monotonic()

    def look() -> None:
        nonlocal last_asked
        if scheduler.worker_list(include_running=False):
            last_asked = time.monotonic()
        elif time.monotonic() - last_asked > options.end_when_idle:
            loop.stop()

    PeriodicCallback(look, 1000).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))
    # From here on workers find it.
    write_atomically(folder / CONFIGURATION, configuration.encode("ascii"), mode=0o600)
    sys.stderr.write(f"The scheduler listens on https://{named}:{port}/\n")
    try:
        loop.start()
    finally:
        if _is_ours(folder / CONFIGURATION, configuration):
            (folder / CONFIGURATION).unlink(missing_ok=True)
            (folder / CERTIFICATE).unlink(missing_ok=True)
    sys.stderr.write("The scheduler ends: nobody asks it any more.\n")
    return 0


def own_address() -> str:
    """Find the address under which other hosts reach this one.

    The host's name will not do: Debian has it stand for a loopback address.
    """
    # No packet is sent: the address is one of those for examples (RFC 5737), and the system only chooses a way to it.
    for family, example in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((example, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"


def _is_ours(path: Path, content: str) -> bool:
    # Another scheduler of the same job may have taken this one's place while it was cut off.
    try:
        return path.read_text("ascii") == content
    except OSError:
        return False


def _draw_certificate(folder: Path, address: str) -> ssl.SSLContext:
    """Draw a key and a certificate that names the address, and leave the certificate for the workers.

    Raises
    ------
    MissingPackageError
        If the package that draws them is not installed.
    """
    try:
        from cryptography import x509  # noqa: PLC0415 - only a cluster needs it
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.x509.oid import NameOID  # noqa: PLC0415
    except ImportError as fault:
        raise MissingPackageError(purpose="A cluster's scheduler", package="cryptography", extra="cluster") from fault
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _USER)])
    try:
        named: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        named = x509.DNSName(address)
    moment = now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # The clocks of a cluster's nodes may differ a little.
        .not_valid_before(moment - dt.timedelta(days=1))
        .not_valid_after(moment + _VALID)
        .add_extension(x509.SubjectAlternativeName([named]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(folder / CERTIFICATE, public, mode=0o600)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    both = folder / f"key-{os.getpid()}.pem"
    write_atomically(both, private + public, mode=0o600)
    try:
        context.load_cert_chain(both)
    finally:
        both.unlink()
    return context
