"""The loader: a process of its own that opens the next cases, so that the screen never waits for a file.

The process is a fresh interpreter, not a fork: a fork of a program with a window is not safe, and threads of one
interpreter make the window stutter. What it opened travels as one anonymous block of memory whose descriptor is sent
over a socket and mapped, read-only and without a copy, on this side. Such a block has no name in any folder, so
nothing can be left behind, whichever of the two processes is killed and whenever.
"""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import hashlib
import logging
import mmap
import os
import pickle
import queue
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ScanwardError
from viewer.image import Image

if TYPE_CHECKING:
    from viewer.windowing import Statistics

_HEAD = struct.Struct("<IB")  # length of the message in bytes, whether a descriptor came with it
_AT_ONCE = 1 << 18
_PAGE = mmap.PAGESIZE
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has no such flag
# A cancelled load that goes on for longer sits in one long call, and is ended together with its process.
_STUBBORN_S = 0.3
_CLOSING_S = 5.0
# How many processes may die over one case, or before they are ready, until that is told as a fault.
_TRIES = 2
_NO_MEMORY = "There is not enough memory for this case."
# Files that are named by one of them and read together.
_PAIRS = {".hdr": ".img", ".img": ".hdr", ".par": ".rec", ".rec": ".par"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One case that is wanted.

    Attributes
    ----------
    key
        What the case is called between window and loader, such as the entry's id in the manifest.
    paths
        Its files, or one folder.
    label
        How its images are called on screen.
    """

    key: str
    paths: tuple[Path, ...]
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """One case in memory.

    Attributes
    ----------
    key
        As in the request.
    images
        At least one; their voxels cannot be written. They stay valid for as long as anybody holds them, even after
        the loader has let go of the case.
    statistics
        One for each image.
    seconds
        How long the loading process worked on it.
    size
        Bytes of memory that its voxels take.
    """

    key: str
    images: tuple[Image, ...]
    statistics: tuple[Statistics, ...]
    seconds: float
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a case cannot be shown.

    Attributes
    ----------
    key
        As in the request.
    kind
        The name of the fault's class; "Ended" if the loading process died over the case.
    text
        The sentence for the screen.
    """

    key: str
    kind: str
    text: str


@dataclass(slots=True, kw_only=True)
class _Kept:
    """A case in the cache; `fingerprint` is None if nothing on disk can make its outcome another one."""

    request: Request
    outcome: Loaded | Fault
    fingerprint: bytes | None
    size: int
    used: int
    is_checked: bool = True


@dataclass(slots=True, kw_only=True)
class _Job:
    """What the process works at; `cancelled` is the monotonic time at which it was told to stop."""

    number: int
    request: Request
    cancelled: float | None = None


@dataclass(slots=True)
class _Inbox:
    """Bytes and descriptors that came over the socket and are not yet whole messages."""

    data: bytearray = field(default_factory=bytearray)
    descriptors: deque[int] = field(default_factory=deque)

    def messages(self) -> Iterator[tuple[tuple[Any, ...], int | None]]:
        """Take out each whole message, with the descriptor that came with it."""
        while len(self.data) >= _HEAD.size:
            length, has_block = _HEAD.unpack_from(self.data)
            end = _HEAD.size + length
            if len(self.data) < end:
                return
            body = bytes(self.data[_HEAD.size : end])
            del self.data[:end]
            # Both ends are this very module, and nobody else has the socket.
            yield pickle.loads(zlib.decompress(body)), self.descriptors.popleft() if has_block else None  # noqa: S301

    def drop(self) -> None:
        """Forget everything and close the descriptors."""
        self.data.clear()
        while self.descriptors:
            os.close(self.descriptors.popleft())


def _packed(*message: object, has_block: bool = False) -> bytes:
    body = zlib.compress(pickle.dumps(message, protocol=5), 1)
    return _HEAD.pack(len(body), has_block) + body


class Loader:
    """Opens cases in a process of its own, in the order in which they are wanted, and keeps what fits.

    Every method returns at once, except `wait` and `close`. It is meant for one thread. In a window, watch `fileno()`
    with a QSocketNotifier and call `poll()` whenever it is readable; while a case is awaited call it now and then, too,
    for a process that hangs does not report and is only replaced then.

    Parameters
    ----------
    capacity_bytes
        How much memory the voxels of all kept cases may take. Cases that are held and the most wanted one are kept
        even if they alone are larger.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._kept: dict[str, _Kept] = {}
        self._held: Counter[str] = Counter()
        self._wanted: dict[str, Request] = {}
        self._sizes: dict[str, int] = {}
        self._failures: Counter[Request] = Counter()
        self._false_starts = 0
        self._job: _Job | None = None
        self._numbers = 0
        self._uses = 0
        self._news: dict[str, None] = {}
        self._inbox = _Inbox()
        self._outbox = bytearray()
        self._is_ready = False
        self._is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: list[subprocess.Popen[bytes]] = []
        self._near, self._far = socket.socketpair()
        self._near.settimeout(0)
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def used_bytes(self) -> int:
        """How much memory the voxels of all kept cases take."""
        return sum(kept.size for kept in self._kept.values())

    @property
    def loading(self) -> str | None:
        """The key of the case that is being opened, or None."""
        return self._job.request.key if self._job else None

    @property
    def process_id(self) -> int | None:
        """The loading process, or None if there is none at the moment."""
        return self._process.pid if self._process else None

    def fileno(self) -> int:
        """Give the descriptor that is readable when `poll` has something to do; it stays the same until `close`."""
        return self._near.fileno()

    def want(self, requests: Sequence[Request]) -> None:
        """Say which cases are wanted from now on, the most urgent first.

        What was wanted before and is not any more is cancelled, also in the middle of a file; so is a load that stands
        in the way of a more urgent first case. Whether the files of kept cases have changed is looked at again.
        """
        if self._is_closed:
            return
        self._wanted = {}
        for request in requests:
            self._wanted.setdefault(request.key, request)
        for key, request in self._wanted.items():
            kept = self._kept.get(key)
            if kept is not None and kept.request != request:
                del self._kept[key]
                self._sizes.pop(key, None)
            elif kept is not None:
                kept.is_checked = kept.fingerprint is None
        for request in [one for one in self._failures if self._wanted.get(one.key) != one]:
            del self._failures[request]
            kept = self._kept.get(request.key)
            if kept is not None and kept.fingerprint is None:
                del self._kept[request.key]  # wanted again later, it gets another chance
        if self._process is None:
            self._false_starts = 0
        self._cancel_needless()
        self._go_on()

    def get(self, key: str) -> Loaded | Fault | None:
        """Give a case if it is there, the reason if it cannot be, or None as long as that is open.

        This takes in nothing from the process, so that `poll` misses nothing.
        """
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._uses += 1
        kept.used = self._uses
        return kept.outcome

    def hold(self, key: str) -> None:
        """Keep a case in memory, whatever is wanted, because it is on screen; as often as it is released."""
        self._held[key] += 1

    def release(self, key: str) -> None:
        """Take one `hold` back."""
        self._held[key] -= 1
        if self._held[key] <= 0:
            del self._held[key]
        self._make_room()

    def poll(self) -> tuple[str, ...]:
        """Take in what the process has finished, without waiting.

        Returns
        -------
        tuple of str
            The keys for which `get` gives something new since the last call: a case that has come, or cannot be
            opened, or whose files have changed.
        """
        self._work()
        news = tuple(self._news)
        self._news.clear()
        return news

    def wait(self, key: str, timeout: float | None = None) -> Loaded | Fault | None:
        """Wait until a case is there and its files are known to be unchanged, and give it.

        Returns
        -------
        Loaded, Fault or None
            What `get` gives after that, or after `timeout` seconds. None at once for a case that is neither wanted nor
            kept, or that has no room beside more urgent ones.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._is_closed:
            self._work()
            kept = self._kept.get(key)
            is_settled = kept is not None and kept.is_checked
            if is_settled or key not in self._wanted or (self._job is None and self._next() is None):
                return self.get(key)
            left = _STUBBORN_S if end is None else min(_STUBBORN_S, end - time.monotonic())
            if left <= 0:
                return self.get(key)
            watch = select.poll()
            watch.register(self._near, select.POLLIN)
            watch.poll(left * 1000)
        return None

    def close(self) -> None:
        """End the process and let go of every case."""
        if self._is_closed:
            return
        self._is_closed = True
        self._end_process()
        for process in self._ending:  # killed already; a busy machine takes a moment to bury it
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_CLOSING_S)
        self._inbox.drop()
        self._near.close()
        self._far.close()
        self._kept.clear()
        self._wanted.clear()
        self._news.clear()
        self._job = None

    # The order of work.

    def _cancel_needless(self) -> None:
        job = self._job
        if job is None or job.cancelled is not None:
            return
        first = next(iter(self._wanted.values()), None)
        if self._wanted.get(job.request.key) == job.request and (
            first is None or first == job.request or first.key in self._kept
        ):
            return
        job.cancelled = time.monotonic()
        self._send("stop", job.number)

    def _next(self) -> tuple[Request, bytes | None] | None:
        """Choose what is to be opened or looked at next, and tell what is known of its files."""
        taken = sum(self._kept[key].size for key in self._held if key in self._kept)
        for place, (key, request) in enumerate(self._wanted.items()):
            kept = self._kept.get(key)
            if kept is not None and not kept.is_checked:
                return request, kept.fingerprint
            if kept is None:
                if place and taken + self._sizes.get(key, 1) > self._capacity:
                    continue
                return request, None
            if key not in self._held:
                taken += kept.size
        return None

    def _go_on(self) -> None:
        if self._is_closed or self._job is not None:
            return
        chosen = self._next()
        if chosen is None:
            return
        while self._process is None and self._false_starts < _TRIES:
            self._start()
        if self._process is None:
            self._refuse_all()
            return
        if not self._is_ready:
            return
        request, fingerprint = chosen
        self._numbers += 1
        self._job = _Job(number=self._numbers, request=request)
        paths = tuple(os.fspath(path) for path in request.paths)
        self._send("open", self._numbers, paths, request.label, fingerprint)

    def _refuse_all(self) -> None:
        for request in self._wanted.values():
            kept = self._kept.get(request.key)
            if kept is not None:
                kept.is_checked = True  # there is nobody to look at its files
            else:
                self._fail(request, "Ended", "The process that opens images cannot be started.")

    def _fail(self, request: Request, kind: str, text: str, fingerprint: bytes | None = None) -> None:
        """Keep a fault; without a fingerprint only until the case is no longer wanted, for it may go better then."""
        if fingerprint is None:
            self._failures[request] += 1
        if self._wanted.get(request.key, request) == request:
            fault = Fault(key=request.key, kind=kind, text=text)
            self._keep(request, fault, fingerprint=fingerprint, size=0)

    def _keep(self, request: Request, outcome: Loaded | Fault, *, fingerprint: bytes | None, size: int) -> None:
        self._uses += 1
        self._kept[request.key] = _Kept(
            request=request, outcome=outcome, fingerprint=fingerprint, size=size, used=self._uses
        )
        self._sizes[request.key] = size
        self._news[request.key] = None
        self._make_room()

    def _make_room(self) -> None:
        """Let go of the least useful cases until the rest fits: the unwanted and long unused, then the least urgent."""
        excess = self.used_bytes - self._capacity
        if excess <= 0:
            return
        urgency = {key: place for place, key in enumerate(self._wanted)}
        unwanted = len(urgency)

        def uselessness(key: str) -> tuple[int, int]:
            return -urgency.get(key, unwanted), self._kept[key].used

        for key in sorted((key for key, kept in self._kept.items() if kept.size), key=uselessness):
            if excess <= 0:
                return
            if key in self._held or urgency.get(key) == 0:
                continue
            excess -= self._kept.pop(key).size
            self._news.pop(key, None)

    # Talking to the process.

    def _start(self) -> None:
        code = "import sys; sys.path[:] = sys.argv[2:]; from viewer.prefetch import serve; serve(int(sys.argv[1]))"
        self._is_ready = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(self._far.fileno()), *map(str, sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[self._far.fileno()],
            )
        except OSError:
            self._false_starts += 1
            return
        # As long as this side had it open too, the end of the process could not be seen.
        self._far.close()

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._ending.append(self._process)
        self._process = None
        self._is_ready = False
        still = []
        for process in self._ending:
            try:
                process.wait(_STUBBORN_S / 10)
            except subprocess.TimeoutExpired:  # it hangs in the kernel, as over a server that is gone
                still.append(process)
        self._ending = still

    def _died(self) -> None:
        """Clear up after the process has ended, and give the job that it ended over another chance, or up."""
        was_ready = self._is_ready
        self._end_process()
        self._inbox.drop()
        self._outbox.clear()
        near, self._far = socket.socketpair()
        # The descriptor keeps its number, so that whoever watches it need not be told.
        os.dup2(near.fileno(), self._near.fileno(), inheritable=False)
        near.close()
        self._near.settimeout(0)
        job, self._job = self._job, None
        if not was_ready:
            self._false_starts += 1
        if job is None or job.cancelled is not None:
            return
        if self._failures[job.request] + 1 < _TRIES:
            self._failures[job.request] += 1
        else:
            text = "The process that opens images ended while it worked at this case; it may need more memory."
            self._fail(job.request, "Ended", text)

    def _send(self, *message: object) -> None:
        self._outbox += _packed(*message)
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(OSError):  # full: the rest goes later; broken: seen when reading
            while self._outbox:
                del self._outbox[: self._near.send(self._outbox)]

    def _work(self) -> None:
        if self._is_closed:
            return
        has_ended = False
        while not has_ended:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._near, _AT_ONCE, 8, flags=_CLOSE_ON_EXEC)
            except BlockingIOError:
                break
            except OSError:
                data, descriptors = b"", []
            self._inbox.descriptors.extend(descriptors)
            self._inbox.data += data
            has_ended = not data
        for message, block in self._inbox.messages():
            self._take(message, block)
        job = self._job
        if job is not None and job.cancelled is not None and time.monotonic() - job.cancelled > 2 * _STUBBORN_S:
            has_ended = True
        if has_ended:
            self._died()
        self._flush()
        self._go_on()

    def _take(self, message: tuple[Any, ...], block: int | None) -> None:
        kind, number, *rest = message
        if kind == "ready":
            self._is_ready = True
            self._false_starts = 0
        if kind in ("ready", "more"):
            return
        job, self._job = self._job, None
        if job is None or number != job.number:  # cannot be; the block must not stay open even so
            self._job = job
            if block is not None:
                os.close(block)
            return
        request = job.request
        if kind == "same" and request.key in self._kept:
            self._kept[request.key].is_checked = True
        elif kind == "fault":
            name, text, fingerprint = rest
            self._fail(request, name, text, fingerprint)
        elif kind == "loaded" and block is not None:
            parts, statistics, seconds, fingerprint, size = rest
            try:
                images = _mapped(block, parts, size)
            except (OSError, MemoryError):
                self._fail(request, "MemoryError", _NO_MEMORY)
                return
            finally:
                os.close(block)
            self._failures.pop(request, None)
            # Cancelled too late it is still good to have, unless the key means other files by now.
            if self._wanted.get(request.key, request) == request:
                loaded = Loaded(key=request.key, images=images, statistics=statistics, seconds=seconds, size=size)
                self._keep(request, loaded, fingerprint=fingerprint, size=size)


# Images in a block of memory.


def _block(name: str) -> int:
    """Make an empty block of memory that has no name in any folder, and give its descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile(prefix=name) as file:
        return os.dup(file.fileno())


def _write(block: int, offset: int, values: NDArray[Any]) -> None:
    rest = values.reshape(-1).view(np.uint8).data
    while rest:
        written = os.pwrite(block, rest, offset)
        offset += written
        rest = rest[written:]


def _laid_out(images: Sequence[Image], name: str) -> tuple[int, list[dict[str, Any]], int]:
    """Write the voxels of images into one block, in the order in which they lie in memory.

    Returns
    -------
    tuple of (int, list of dict, int)
        The block's descriptor; of each image what `_mapped` needs; the size in bytes.
    """
    parts: list[dict[str, Any]] = []
    size = 0
    block = _block(name)
    try:
        for image in images:
            voxels = image.voxels
            order = sorted(range(voxels.ndim), key=lambda axis: -abs(voxels.strides[axis]))
            lying = np.ascontiguousarray(voxels.transpose(order))
            part = {one.name: getattr(image, one.name) for one in dataclasses.fields(image) if one.name != "voxels"}
            parts.append({"part": part, "offset": size, "dtype": lying.dtype, "shape": lying.shape, "order": order})
            _write(block, size, lying)
            size += max(1, -(-lying.nbytes // _PAGE)) * _PAGE
        os.ftruncate(block, size)
    except BaseException:
        os.close(block)
        raise
    return block, parts, size


def _mapped(block: int, parts: Sequence[dict[str, Any]], size: int) -> tuple[Image, ...]:
    """Give the images that `_laid_out` wrote, their voxels in the block itself."""
    memory = mmap.mmap(block, size, access=mmap.ACCESS_READ)
    images = []
    for part in parts:
        lying = np.ndarray(part["shape"], part["dtype"], buffer=memory, offset=part["offset"])
        images.append(Image(voxels=lying.transpose(np.argsort(part["order"])), **part["part"]))
    return tuple(images)


# The loading process.


class _Cancelled(BaseException):
    """The case that is being opened is not wanted any more; no `except Exception` of a library may stop this."""


def _fingerprint(paths: Sequence[str]) -> bytes:
    """Sum up names, sizes and times of all files below some paths; a file that cannot be seen counts as that."""
    seen = hashlib.blake2b(digest_size=16)

    def look(path: str) -> None:
        try:
            facts = os.stat(path)
        except OSError as fault:
            seen.update(repr((path, fault.errno)).encode())
            return
        seen.update(repr((path, facts.st_size, facts.st_mtime_ns, facts.st_ino)).encode())
        if stat.S_ISDIR(facts.st_mode):
            with contextlib.suppress(OSError), os.scandir(path) as found:
                inside = sorted((one.path, one.is_symlink()) for one in found)
                for name, is_link in inside:
                    if not (is_link and os.path.isdir(name)):  # it may lead back up
                        look(name)

    for path in paths:
        look(path)
        stem, ending = os.path.splitext(path)
        other = _PAIRS.get(ending.lower())
        if other is not None:
            for companion in (stem + other, stem + other.upper()):
                look(companion)
    return seen.digest()


class _Worker:
    """The loading process's side: a thread that listens, and the main thread that opens one case at a time."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._jobs: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._number = 0  # the job that may be cancelled at this moment, or 0
        self._stopped = 0
        self._speaking = threading.Lock()

    def listen(self) -> None:
        """Take in what the window's process says; when that has ended, end too, wherever the main thread is."""
        inbox = _Inbox()
        while True:
            try:
                data = self._line.recv(_AT_ONCE)
            except OSError:
                data = b""
            if not data:
                os._exit(0)
            inbox.data += data
            for message, _ in inbox.messages():
                if message[0] == "stop":
                    self._stop(message[1])
                else:
                    self._jobs.put(message[1:])
            if inbox.data:
                self._say(_packed("more", 0))  # wakes the window, which holds the rest until there is room for it

    def _stop(self, number: int) -> None:
        self._stopped = number
        _thread.interrupt_main(signal.SIGINT)
        patience = threading.Timer(_STUBBORN_S, self._give_up, [number])
        patience.daemon = True
        patience.start()

    def _give_up(self, number: int) -> None:
        if self._number == number:
            os._exit(1)

    def interrupted(self, _signal: int, _frame: FrameType | None) -> None:
        """Leave the load if it is the one to be stopped; a control-C on the terminal is the window's to answer."""
        if self._number and self._number == self._stopped:
            raise _Cancelled

    def work(self) -> None:
        """Open what is asked for, for ever."""
        from viewer.opening import open_images  # noqa: PLC0415 - the window's process never needs these
        from viewer.windowing import measure  # noqa: PLC0415

        self._say(_packed("ready", 0))
        while True:
            number, paths, label, known = self._jobs.get()
            try:
                self._number = number
                if self._stopped == number:
                    raise _Cancelled  # noqa: TRY301 - stopped before it began
                answer, block = self._opened(number, paths, label, known, open_images, measure)
                self._number = 0
            except _Cancelled:
                self._number = 0
                answer, block = _packed("stopped", number), None
            self._say(answer, block)

    def _opened(  # noqa: PLR0917
        self, number: int, paths: Sequence[str], label: str, known: bytes | None, open_images: Any, measure: Any
    ) -> tuple[bytes, int | None]:
        start = time.perf_counter()
        fingerprint = _fingerprint(paths)
        if fingerprint == known:
            return _packed("same", number), None
        try:
            files = [Path(path) for path in paths]
            images = open_images(files[0] if len(files) == 1 else files, label=label)
            statistics = tuple(measure(image) for image in images)
            self._number = 0  # stopped from here on, the block might stay open
            block, parts, size = _laid_out(images, f"scanward-{os.getpid()}-{number}")
            seconds = time.perf_counter() - start
            return _packed("loaded", number, parts, statistics, seconds, fingerprint, size, has_block=True), block
        except ScanwardError as fault:
            return _packed("fault", number, type(fault).__name__, str(fault), fingerprint), None
        except MemoryError:
            # Not a property of the files: another time there may be enough.
            return _packed("fault", number, "MemoryError", _NO_MEMORY, None), None
        except Exception as fault:  # noqa: BLE001 - one bad file must not end the reading of all others
            name = type(fault).__name__
            text = f"This case cannot be opened ({name}). This is a fault of scanward."
            return _packed("fault", number, name, text, fingerprint), None

    def _say(self, answer: bytes, block: int | None = None) -> None:
        try:
            with self._speaking:
                if block is not None:
                    sent = socket.send_fds(self._line, [answer], [block])
                    os.close(block)
                    answer = answer[sent:]
                self._line.sendall(answer)
        except OSError:
            os._exit(0)  # nobody is there to hear it


def serve(descriptor: int) -> None:
    """Be the loading process; `descriptor` is its end of the socket."""
    # What libraries say of a file may name the patient, and nobody reads it here.
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    worker = _Worker(socket.socket(fileno=descriptor))
    signal.signal(signal.SIGINT, worker.interrupted)
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.work()
