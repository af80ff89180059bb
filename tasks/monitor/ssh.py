"""Reach remote machines over SSH, within deadlines that hold whatever the other side does.

paramiko's own time-outs bound a single read or step: a peer that drips one byte now and then, or never tells how a
command ended, holds it for ever. So every wait here is cut to what is left of one deadline, and a watchdog closes the
socket from outside once that has passed. Host keys are compared here and never learnt in passing.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from tasks.errors import UsageError

if TYPE_CHECKING:
    import paramiko

KnownHosts: TypeAlias = "paramiko.HostKeys"

ANSWER_BYTES: Final = 1 << 20
"""More than this of a command's output is not read."""

KINDS: Final = {
    "name-unknown": "the name cannot be resolved",
    "no-route": "the network has no way there",
    "refused": "nothing listens on the port",
    "timeout": "there was no answer in time",
    "no-ssh": "what answers does not speak SSH",
    "host-unknown": "the host key is not known yet; `scanward monitor enrol` shows and keeps it",
    "host-key-changed": "the host key is another one than is known: a new installation, or somebody in between",
    "host-key-type": "the host offers only key types of which none is known",
    "key-missing": "the key to log in with cannot be read",
    "key-locked": "the key to log in with needs another passphrase, or one at all",
    "login-refused": "the login was refused",
    "closed": "the connection was closed",
    "jump-failed": "the machine on the way there cannot be passed",
    "forward-prohibited": "the machine does not forward connections",
    "answer-too-long": "the answer is longer than anything expected",
    "command-refused": "the command was not started",
}
"""What can go wrong on the way to a machine."""

_PORT = 22
_CHUNK = 1 << 15
_POLL_S = 0.01
_GRACE_S = 0.5
_STATUS_S = 1.0
# How long to wait for a command's exit status once its output has ended.
_OPEN_FAILED = re.compile(r"open FAILED: (.*): [^:]*$")
_serials = iter(range(1, 1 << 62))


class SshFault(Exception):  # noqa: N818 - an outcome to report, of the kinds above
    """A machine, or what lies behind it, could not be reached.

    Attributes
    ----------
    kind
        A key of `KINDS`.
    phase
        How far it came: "resolve", "connect", "greeting", "host-key", "login", "command" or "forward".
    detail
        A number or word of the system's that tells more; never what the other side wrote.
    """

    def __init__(self, kind: str, phase: str, detail: str = "") -> None:
        self.kind, self.phase, self.detail = kind, phase, detail
        super().__init__(f"{KINDS[kind]}{f' ({detail})' if detail else ''}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where and how to log in.

    Attributes
    ----------
    host, port
        A name or number, as the machine before it on the way knows it.
    user
        Of the account.
    key_files
        Private keys, tried in this order.
    uses_agent
        Whether keys of a running agent are tried, too, after the files.
    alias
        Under which name its key is kept; `host` if empty.
    """

    host: str
    port: int = _PORT
    user: str = ""
    key_files: tuple[Path, ...] = ()
    uses_agent: bool = False
    alias: str = ""

    @property
    def known_as(self) -> str:
        """The name in the file of known hosts: with the port in the way of OpenSSH unless it is the usual one."""
        name = self.alias or self.host
        return name if self.port == _PORT else f"[{name}]:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command gave.

    Attributes
    ----------
    out, err
        What it wrote, as far as it was read.
    status
        Its exit status; None if it was not told, or a signal ended it.
    seconds
        How long it took.
    started, ended
        `time.monotonic` when it was sent and when its answer was complete.
    """

    out: bytes
    err: bytes
    status: int | None
    started: float
    ended: float


class Deadline:
    """A moment that is not passed.

    Parameters
    ----------
    seconds
        From now.
    """

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; never negative."""
        return max(self.at - time.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        """True once it has passed."""
        return self.left <= 0

    def within(self, seconds: float) -> Deadline:
        """Give an earlier deadline, or this one."""
        sooner = Deadline(seconds)
        sooner.at = min(sooner.at, self.at)
        return sooner


class Watchdog:
    """Closes what outlives its deadline; one thread for any number of connections."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._heap: list[tuple[float, int]] = []
        self._guarded: dict[int, Callable[[], None]] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def guard(self, deadline: Deadline, close: Callable[[], None]) -> Iterator[None]:
        """Call `close` once the deadline has passed, unless the block is left before."""
        number = next(_serials)
        with self._change:
            self._guarded[number] = close
            heapq.heappush(self._heap, (deadline.at, number))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._change.notify()
        try:
            yield
        finally:
            with self._change:
                self._guarded.pop(number, None)

    def close(self) -> None:
        """Stop watching."""
        with self._change:
            self._is_closed = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            with self._change:
                if self._is_closed:
                    return
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait is None or wait > 0:
                    self._change.wait(wait)
                    continue
                _, number = heapq.heappop(self._heap)
                close = self._guarded.pop(number, None)
            if close is not None:
                # A socket that is shut wakes whoever waits for it; closing may fail only if it is closed already.
                with contextlib.suppress(Exception):
                    close()


# -- keys --------------------------------------------------------------------------------------------------------------


def read_known_hosts(path: Path) -> paramiko.HostKeys:
    """Read a file of known hosts, hashed names and all; a file that is not there knows none.

    Raises
    ------
    OSError
        If it is there and cannot be read.
    """
    import paramiko  # noqa: PLC0415 - loaded where it is used

    keys = paramiko.HostKeys()
    if path.exists():
        keys.load(str(path))
    return keys


def fingerprint(key: paramiko.PKey) -> str:
    """Write a key's SHA-256 the way that `ssh-keygen -l` does."""
    return str(key.fingerprint)


def check_host_key(known: paramiko.HostKeys, name: str, key: paramiko.PKey) -> None:
    """Compare a host's key with those that are known of it.

    Raises
    ------
    SshFault
        If none is known, another one is, or only ones of another type.
    """
    found = known.lookup(name)
    if not found:
        raise SshFault("host-unknown", "host-key", fingerprint(key))
    same_type = found.get(key.get_name())
    if same_type is None:
        raise SshFault("host-key-type", "host-key", key.get_name())
    if same_type.asbytes() != key.asbytes():
        raise SshFault("host-key-changed", "host-key", fingerprint(key))


def read_private_key(path: Path, passphrase: str | None) -> paramiko.PKey:
    """Read a private key of any type.

    Raises
    ------
    SshFault
        If it cannot be read, or the passphrase does not open it.
    """
    import paramiko  # noqa: PLC0415

    try:
        return paramiko.PKey.from_path(path, passphrase.encode() if passphrase else None)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise SshFault("key-missing", "login", path.name) from None
    except paramiko.PasswordRequiredException:
        raise SshFault("key-locked", "login", path.name) from None
    except Exception as fault:
        # A wrong passphrase, or none where one is needed, shows as this or that, depending on the type of the key.
        kind = "key-locked" if passphrase or "pass" in str(fault).lower() else "key-missing"
        raise SshFault(kind, "login", path.name) from fault


class SshConfig:
    """What a configuration of OpenSSH says of hosts: names, ports, users, keys, ways.

    paramiko reads such a file and acts on nothing in it.
    """

    def __init__(self, config: Any = None) -> None:
        self._config = config

    def _of(self, host: str) -> Mapping[str, Any]:
        return {} if self._config is None else self._config.lookup(host)

    def address(self, host: str, *, port: int | None, user: str, key_files: tuple[Path, ...]) -> Address:
        """Say where and how to log in; what is given goes before what the file says."""
        user_given, _, name = host.rpartition("@")
        name, port_given = _split_port(name)
        found = self._of(name)
        files = key_files or tuple(Path(one).expanduser() for one in found.get("identityfile", ()))
        return Address(
            host=str(found.get("hostname", name)),
            port=port or port_given or int(found.get("port", _PORT)),
            user=user_given or user or str(found.get("user", "")),
            key_files=files,
            uses_agent=not files,
            alias=str(found.get("hostkeyalias", "")),
        )

    def jumps(self, host: str) -> tuple[str, ...]:
        """Name the machines on the way (ProxyJump)."""
        way = str(self._of(host).get("proxyjump", ""))
        return tuple(one.strip() for one in way.split(",") if one.strip() and one.strip() != "none")


def _split_port(host: str) -> tuple[str, int | None]:
    name, colon, port = host.rpartition(":")
    return (name, int(port)) if colon and port.isdigit() and ":" not in name else (host, None)


def read_ssh_config(path: Path | None) -> SshConfig:
    """Read a configuration of OpenSSH; without one nothing is known.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    if path is None:
        return SshConfig()
    import paramiko  # noqa: PLC0415

    try:
        return SshConfig(paramiko.SSHConfig.from_path(str(path)))
    except (OSError, paramiko.SSHException, paramiko.ConfigParseError) as fault:
        raise UsageError(problem=f"{path} cannot be read as an SSH configuration.", remedy="Correct it.") from fault


# -- connections -------------------------------------------------------------------------------------------------------


class Connection:
    """A login on one machine, open until it is closed."""

    def __init__(
        self,
        transport: paramiko.Transport,
        watchdog: Watchdog,
        failures: _OpenFailures,
        before: Sequence[Connection] = (),
    ) -> None:
        self._transport = transport
        self._sock = transport.sock
        self._watchdog = watchdog
        self._failures = failures
        self._before = tuple(before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def server(self) -> str:
        """What the SSH server calls itself, such as "SSH-2.0-OpenSSH_9.2p1"; written by the other side."""
        return str(self._transport.remote_version)

    def close(self) -> None:
        """Close the connection, and all that goes through it."""
        _close(self._transport, self._sock)
        self._failures.stop()
        for one in reversed(self._before):
            one.close()

    def run(
        self,
        command: str,
        stdin: bytes,
        deadline: Deadline,
        *,
        until: Callable[[bytes], bool] | None = None,
        most: int = ANSWER_BYTES,
    ) -> Answer:
        """Run a command, feed it, and read what it writes.

        Parameters
        ----------
        command
            As the remote shell gets it.
        stdin
            What it reads.
        until
            Tells whether an answer is complete, although the command, or what it left behind, goes on.
        most
            Bytes of output that are read.

        Raises
        ------
        SshFault
            If it is not done before the deadline, the connection ends, or it writes more.
        """
        import paramiko  # noqa: PLC0415

        started = time.monotonic()
        # A command that takes too long costs its channel; only one that holds paramiko itself costs the connection.
        with self._watchdog.guard(Deadline(deadline.left + _GRACE_S), self._cut):
            try:
                channel = self._transport.open_session(timeout=deadline.left or 0.001)
                try:
                    channel.settimeout(max(deadline.left, 0.001))
                    channel.exec_command(command)
                    return self._converse(channel, stdin, deadline, until, most, started)
                finally:
                    channel.close()
            except SshFault:
                raise
            except (paramiko.SSHException, OSError, EOFError) as fault:
                raise self._told(fault, deadline, "command", "command-refused") from fault

    def _converse(  # noqa: PLR0917 - what `run` was given
        self,
        channel: paramiko.Channel,
        stdin: bytes,
        deadline: Deadline,
        until: Callable[[bytes], bool] | None,
        most: int,
        started: float,
    ) -> Answer:
        """Write and read at once, so that neither side waits for the other's full buffer."""
        out, err, waiting = bytearray(), bytearray(), memoryview(stdin)
        if not waiting:
            channel.shutdown_write()
        silent_since: float | None = None
        while True:
            if deadline.is_over:
                raise SshFault("timeout", "command")
            moved = False
            while channel.recv_ready() and len(out) <= most:
                out += channel.recv(_CHUNK)
                moved = True
            while channel.recv_stderr_ready() and len(err) <= most:
                err += channel.recv_stderr(_CHUNK)
                moved = True
            if max(len(out), len(err)) > most:
                raise SshFault("answer-too-long", "command")
            if moved and until is not None and until(bytes(out)):
                break
            if waiting and channel.send_ready() and not channel.closed:
                waiting = waiting[channel.send(waiting[:_CHUNK]) :]
                moved = True
                if not len(waiting):
                    channel.shutdown_write()
            if moved:
                silent_since = None
                continue
            has_ended, has_status = channel.eof_received or channel.closed, channel.exit_status_ready()
            if has_ended and has_status:
                break
            if has_ended or has_status:
                # The one comes right after the other, or never: a child left behind holds the output open, and some
                # servers never tell how a command ended.
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > _STATUS_S:
                    break
            elif not self._transport.is_active():
                raise SshFault("closed", "command")
            time.sleep(_POLL_S)
        status = channel.recv_exit_status() if channel.exit_status_ready() else -1
        is_whole = until is not None and until(bytes(out))
        if status == -1 and not is_whole and not self._is_still_active():
            raise SshFault("closed", "command")
        # paramiko says -1 for what was not told and for an end by a signal.
        told = status if status >= 0 else None
        return Answer(out=bytes(out), err=bytes(err), status=told, started=started, ended=time.monotonic())

    def _is_still_active(self) -> bool:
        """Tell whether the connection stands; paramiko's own thread may be a moment behind in noticing its end."""
        self._transport.join(_GRACE_S)
        return bool(self._transport.is_active())

    def reach(self, host: str, port: int, deadline: Deadline) -> paramiko.Channel:
        """Open a connection from the remote machine to a third one.

        Raises
        ------
        SshFault
            "forward-prohibited" if the machine does not do that; else why the third one cannot be reached from it.
        """
        import paramiko  # noqa: PLC0415

        with self._watchdog.guard(deadline, self._cut):
            try:
                return self._transport.open_channel(
                    "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=max(deadline.left, 0.001)
                )
            except paramiko.ChannelException as fault:
                # Codes of RFC 4254, section 5.1.
                if fault.code in (1, 3):
                    raise SshFault("forward-prohibited", "forward") from None
                raise SshFault(self._failures.kind(), "forward") from None
            except (paramiko.SSHException, OSError, EOFError) as fault:
                raise self._told(fault, deadline, "forward", "timeout") from fault

    @contextlib.contextmanager
    def forward(self, host: str, port: int, deadline: Deadline) -> Iterator[tuple[str, int]]:
        """Let one local connection come out of the remote machine; give the local (host, port) to connect to.

        Raises
        ------
        SshFault
            As for `reach`.
        """
        channel = self.reach(host, port, deadline)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        pump = threading.Thread(target=_pump, args=(listener, channel, deadline), name="forward", daemon=True)
        pump.start()
        try:
            yield listener.getsockname()
        finally:
            # Shutting a listening socket down wakes who waits in accept.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            channel.close()
            pump.join(5)

    def _cut(self) -> None:
        self._transport.close()

    def _told(self, fault: BaseException, deadline: Deadline, phase: str, otherwise: str) -> SshFault:
        if deadline.is_over or isinstance(fault, TimeoutError):
            return SshFault("timeout", phase)
        if not self._is_still_active():
            return SshFault("closed", phase)
        return SshFault(otherwise, phase)


def connect(
    path: Sequence[Address],
    deadline: Deadline,
    watchdog: Watchdog,
    *,
    known: paramiko.HostKeys,
    passphrases: Mapping[Path, str] | None = None,
    step_s: float = 10.0,
) -> Connection:
    """Log in on a machine, through others if need be.

    Parameters
    ----------
    path
        The machines to log in on one after the other; the last is the one that is wanted.
    known
        Keys of all of them.
    passphrases
        For the key files that need one.
    step_s
        Seconds for each of: connecting, greeting and key exchange, login.

    Raises
    ------
    SshFault
        If one of them cannot be logged in on; for those on the way of the kind "jump-failed", with what it was.
    """
    opened: list[Connection] = []
    try:
        for number, address in enumerate(path):
            try:
                if opened:
                    sock: Any = opened[-1].reach(address.host, address.port, deadline.within(step_s))
                else:
                    sock = _dial(address.host, address.port, deadline.within(step_s))
                before = opened if number == len(path) - 1 else ()
                opened.append(_login(sock, address, deadline, watchdog, known, passphrases or {}, step_s, before))
            except SshFault as fault:
                if fault.kind == "forward-prohibited" or number < len(path) - 1:
                    raise SshFault("jump-failed", fault.phase, fault.kind) from fault
                raise
    except BaseException:
        for one in reversed(opened):
            one.close()
        raise
    return opened[-1]


def _dial(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address of a name that answers; those behind it get their share of the time."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise SshFault("name-unknown", "resolve") from None
    last = SshFault("timeout", "connect")
    for number, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(deadline.left / (len(found) - number), 0.001))
            sock.connect(address)
        except OSError as fault:
            sock.close()
            last = SshFault(_network_kind(fault), "connect", errno.errorcode.get(fault.errno or 0, ""))
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last


def _network_kind(fault: OSError) -> str:
    if isinstance(fault, TimeoutError):
        return "timeout"
    if isinstance(fault, ConnectionRefusedError):
        return "refused"
    if fault.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL):
        return "no-route"
    return "closed"


def _login(  # noqa: PLR0917 - what `connect` was given
    sock: Any,
    address: Address,
    deadline: Deadline,
    watchdog: Watchdog,
    known: paramiko.HostKeys,
    passphrases: Mapping[Path, str],
    step_s: float,
    before: Sequence[Connection],
) -> Connection:
    """Greet, compare the host key, log in."""
    import paramiko  # noqa: PLC0415

    failures = _OpenFailures(address.known_as)
    try:
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        failures.stop()
        raise
    transport.daemon = True
    transport.set_log_channel(failures.name)
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = step_s
    phase = "greeting"
    within = deadline.within(step_s)
    try:
        with watchdog.guard(within, transport.close):
            _prefer_known_types(transport, known.lookup(address.known_as) or {})
            transport.start_client(timeout=max(within.left, 0.001))
            check_host_key(known, address.known_as, transport.get_remote_server_key())
        phase, within = "login", deadline.within(step_s)
        with watchdog.guard(within, transport.close):
            _authenticate(transport, address, passphrases)
    except BaseException as fault:
        is_late = within.is_over or isinstance(fault, TimeoutError)
        _close(transport, sock)
        failures.stop()
        if isinstance(fault, SshFault) and fault.kind == "closed" and is_late:
            raise SshFault("timeout", phase) from fault
        if isinstance(fault, SshFault) or not isinstance(fault, paramiko.SSHException | OSError | EOFError):
            raise
        if is_late:
            raise SshFault("timeout", phase) from fault
        kind = "closed" if isinstance(fault, EOFError | OSError) else ("no-ssh" if phase == "greeting" else "closed")
        raise SshFault(kind, phase) from fault
    return Connection(transport, watchdog, failures, before)


def _close(transport: paramiko.Transport, sock: Any) -> None:
    """Close a connection: paramiko leaves the socket of one that has already ended to the garbage collector."""
    for one in (transport, sock):
        with contextlib.suppress(Exception):
            one.close()


def _prefer_known_types(transport: paramiko.Transport, known: Mapping[str, Any]) -> None:
    """Ask for the types of key that are known of the host first, as OpenSSH does: it may have several."""
    options = transport.get_security_options()
    wanted = set(known) | ({"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in known else set())
    options.key_types = tuple(sorted(options.key_types, key=lambda name: name not in wanted))


def _authenticate(transport: paramiko.Transport, address: Address, passphrases: Mapping[Path, str]) -> None:
    """Try the keys one after the other."""
    import paramiko  # noqa: PLC0415

    missing: SshFault | None = None
    for path in address.key_files:
        try:
            key = read_private_key(path, passphrases.get(path))
        except SshFault as fault:
            missing = missing or fault
            continue
        if _accepts(transport, address.user, key):
            return
    if address.uses_agent:
        agent = paramiko.Agent()
        try:
            for key in agent.get_keys():
                if _accepts(transport, address.user, key):
                    return
        finally:
            agent.close()
    raise missing or SshFault("login-refused", "login")


def _accepts(transport: paramiko.Transport, user: str, key: paramiko.PKey) -> bool:
    import paramiko  # noqa: PLC0415

    try:
        # What is returned are the further proofs that the server asks for.
        return not transport.auth_publickey(user, key)
    except paramiko.BadAuthenticationType:
        return False
    except paramiko.AuthenticationException:
        if not transport.is_active():
            raise SshFault("closed", "login") from None
        return False


class _OpenFailures(logging.Handler):
    """Hears why a server could not open a connection to a third machine: paramiko tells it in its log alone."""

    def __init__(self, host: str) -> None:
        super().__init__(logging.WARNING)
        self._text = ""
        self._logger = logging.getLogger(f"{__name__}.{re.sub(r'[^A-Za-z0-9]', '_', host)}_{next(_serials) % 4096}")
        self._logger.propagate = False
        self._logger.setLevel(logging.WARNING)
        if not self._logger.handlers:
            # What paramiko still says once nobody listens any more would go to standard error.
            self._logger.addHandler(logging.NullHandler())
        self._logger.addHandler(self)
        self.set_name(self._logger.name)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the server's words of the last failure."""
        found = _OPEN_FAILED.search(record.getMessage())
        if found:
            self._text = found[1].lower()

    def kind(self) -> str:
        """Say what the server meant."""
        for words, kind in _REASONS.items():
            if any(word in self._text for word in words):
                return kind
        return "no-route"

    def stop(self) -> None:
        """Hear no more."""
        self._logger.removeHandler(self)
        self.close()


_REASONS: Final = {
    ("refused",): "refused",
    ("not known", "resolve", "unknown host", "no address", "temporary failure in name"): "name-unknown",
    ("timed out", "timeout"): "timeout",
    ("no route", "unreachable", "host is down"): "no-route",
}
# What OpenSSH and its like write when a connection that is to be forwarded fails: the system's own words.


def _pump(listener: socket.socket, channel: paramiko.Channel, deadline: Deadline) -> None:
    """Join one local connection and a channel until either ends."""
    try:
        listener.settimeout(max(deadline.left, 0.001))
        local, _ = listener.accept()
    except OSError:
        return
    with local:
        for one in (local, channel):
            one.settimeout(max(deadline.left, 0.001))
        up = threading.Thread(target=_copy, args=(local.recv, channel.sendall), name="forward-up", daemon=True)
        up.start()
        _copy(channel.recv, local.sendall)
        with contextlib.suppress(OSError):
            local.shutdown(socket.SHUT_RDWR)
        channel.close()
        up.join(5)


def _copy(receive: Callable[[int], bytes], send: Callable[[bytes], Any]) -> None:
    with contextlib.suppress(OSError, EOFError):
        while piece := receive(_CHUNK):
            send(piece)


def fetch_host_key(
    path: Sequence[Address],
    deadline: Deadline,
    watchdog: Watchdog,
    *,
    known: paramiko.HostKeys,
    passphrases: Mapping[Path, str] | None = None,
    step_s: float = 10.0,
) -> paramiko.PKey:
    """Ask the last machine of a way for its key, without logging in there; those before it have to be known.

    Raises
    ------
    SshFault
        If it, or one before it, cannot be reached.
    """
    import paramiko  # noqa: PLC0415

    *before, last = path
    with contextlib.ExitStack() as stack:
        if before:
            way = connect(before, deadline, watchdog, known=known, passphrases=passphrases, step_s=step_s)
            stack.callback(way.close)
            sock: Any = way.reach(last.host, last.port, deadline.within(step_s))
        else:
            sock = _dial(last.host, last.port, deadline.within(step_s))
        failures = _OpenFailures(last.known_as)
        stack.callback(failures.stop)
        transport = paramiko.Transport(sock)
        stack.callback(_close, transport, sock)
        transport.set_log_channel(failures.name)
        within = deadline.within(step_s)
        try:
            with watchdog.guard(within, transport.close):
                transport.start_client(timeout=max(within.left, 0.001))
                return transport.get_remote_server_key()
        except (paramiko.SSHException, OSError, EOFError) as fault:
            kind = "timeout" if within.is_over else "closed" if isinstance(fault, EOFError | OSError) else "no-ssh"
            raise SshFault(kind, "greeting") from fault
