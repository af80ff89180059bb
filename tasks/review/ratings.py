"""What one reader said, act by act: a file that only grows, in which every row vouches for all rows before it.

One SQLite file a reader, `ratings/<reader>.db` beside the manifest. A row is added for each act and is on the disk
before the reader is told "saved"; nothing is ever changed or removed, so that taking a verdict back is a row as well.
Each row carries the SHA-256 of the row before it and of its own content. Since a chain cannot tell that its end was
cut off, the number of rows and the last digest also stand in `<reader>.head` beside it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tasks.database import connect_to_look
from tasks.errors import DiskFullError, RatingsError, ScanwardError, UsageError
from tasks.files import make_folder, write_json
from tasks.review.reading import ReadingProtocol

EVENT_KINDS: Final = {
    "open": "a case came on screen",
    "rate": "a verdict, with the artefacts that are ticked; it replaces the one before",
    "tick": "the artefacts that are ticked; they replace those before",
    "note": "the note on a case; it replaces the one before",
    "mark": "a place was marked",
    "unmark": "a mark was taken away; `target` names the row that set it",
    "undo": "an act was taken back; `target` names its row",
    "skip": "the case was put off, for the reason that stands in the row",
    "close": "the sitting ended",
}
"""What a row can be about, and what that means."""

RATINGS: Final = "ratings"
"""The folder of the readers' files, beside the manifest."""

_SITTING = "sitting"
_NETWORK = re.compile(
    r"(nfs\d?|cifs|smb\d?|smbfs|fuse\.sshfs|lustre|gpfs|9p|afs|beegfs|ceph|glusterfs|fuse\.glusterfs)"
)
_READER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_APPLICATION = 0x5343414E  # SCAN
_VERSION = 1
_BUSY_S = 10.0

_SCHEMA = """
CREATE TABLE rows (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, chain TEXT NOT NULL) STRICT;
CREATE TRIGGER rows_stay BEFORE UPDATE ON rows BEGIN SELECT RAISE(ABORT, 'rows are never changed'); END;
CREATE TRIGGER rows_are_kept BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'rows are never removed'); END;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in an image that a reader pointed at.

    Attributes
    ----------
    mm
        RAS+ millimetres.
    volume
        Zero-based; -1 for all.
    text
        What was said of it.
    """

    mm: tuple[float, float, float]
    volume: int = -1
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One act of a reader.

    Attributes
    ----------
    number
        Of the row, from 1; sittings are rows too.
    event_id
        A random UUID.
    kind
        A key of `EVENT_KINDS`.
    case, presentation
        The manifest's entry id; 1 for the first reading and 2 for a hidden repeat. Empty and 0 if it is about none.
    digest
        Of the entry, as it was on screen.
    verdict, artefacts
        Of a rating; artefacts of a tick, too.
    note
        Of a note; the reason of a skip.
    mark
        Of a mark.
    target
        The event that is taken back.
    dwell_s
        Seconds on the case since the act before, without those in which nothing was touched.
    view
        What was on screen, and how.
    at, utc_offset_min, monotonic_ms
        UTC in ISO 8601 with milliseconds; minutes that local time was ahead of it; a clock that never jumps.
    chain
        SHA-256 over the chain of the row before and this row's content.
    """

    number: int
    event_id: str
    kind: str
    case: str = ""
    presentation: int = 0
    digest: str = ""
    verdict: str = ""
    artefacts: tuple[str, ...] = ()
    note: str = ""
    mark: Mark | None = None
    target: str = ""
    dwell_s: float = 0.0
    view: Mapping[str, Any] = field(default_factory=dict, hash=False)
    at: str = ""
    utc_offset_min: int = 0
    monotonic_ms: int = 0
    chain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a reader's acts on one presentation of a case come to.

    Attributes
    ----------
    verdict, artefacts
        Empty if none was given, or it was taken back.
    digest
        Of the entry when the verdict was given, or when the case was last on screen.
    note, marks
        As they stand; marks by the id of the event that set them.
    dwell_s
        Seconds in all.
    at
        When the verdict was given, UTC.
    view
        What was on screen then.
    is_skipped
        True if the case was put off and not rated since.
    rated_by
        The id of the event that gave the verdict.
    """

    verdict: str = ""
    artefacts: tuple[str, ...] = ()
    digest: str = ""
    note: str = ""
    marks: Mapping[str, Mark] = field(default_factory=dict, hash=False)
    dwell_s: float = 0.0
    at: str = ""
    view: Mapping[str, Any] = field(default_factory=dict, hash=False)
    is_skipped: bool = False
    rated_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Whether a reader's file is as it was written.

    Attributes
    ----------
    rows
        How many there are.
    first_bad
        The number of the first row that is not as it was written, or None.
    problem
        What is wrong; empty if nothing is.
    """

    rows: int
    first_bad: int | None = None
    problem: str = ""

    @property
    def is_sound(self) -> bool:
        """True if nothing is wrong."""
        return not self.problem


def store_path(review: Path, reader: str) -> Path:
    """Give a reader's file.

    Parameters
    ----------
    review
        The folder of the manifest.
    reader
        Letters, digits, dot, hyphen and underscore, at most 64.

    Raises
    ------
    UsageError
        If the name has other letters.
    """
    if not _READER.fullmatch(reader):
        raise UsageError(
            problem="A reader's name has up to 64 letters, digits, dots, hyphens and underscores.",
            remedy="Give another one with --reviewer.",
        )
    return review / RATINGS / f"{reader}.db"


class RatingStore:
    """A reader's file, open for one sitting; made by `open_store`."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        lock: int,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._now = now
        self._monotonic = monotonic
        self._rows, self._chain = _end(connection)
        self._has_head = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(
        self,
        kind: str,
        *,
        case: str = "",
        presentation: int = 0,
        digest: str = "",
        verdict: str = "",
        artefacts: Iterable[str] = (),
        note: str = "",
        mark: Mark | None = None,
        target: str = "",
        dwell_s: float = 0.0,
        view: Mapping[str, Any] | None = None,
    ) -> Event:
        """Add an act; when this returns, it is on the disk.

        Raises
        ------
        DiskFullError, RatingsError
            If it could not be written; then nothing of it is there.
        ValueError
            If there is no such kind.
        """
        if kind not in EVENT_KINDS:
            raise ValueError(f"no event is called {kind}")
        moment = self._now()
        offset = moment.utcoffset()
        event = Event(
            number=self._rows + 1,
            event_id=str(uuid.uuid4()),
            kind=kind,
            case=case,
            presentation=presentation,
            digest=digest,
            verdict=verdict,
            artefacts=tuple(artefacts),
            note=note,
            mark=mark,
            target=target,
            dwell_s=round(dwell_s, 3),
            view=dict(view or {}),
            at=_utc(moment),
            utc_offset_min=round(offset.total_seconds() / 60) if offset is not None else 0,
            monotonic_ms=round(self._monotonic() * 1000),
        )
        return replace(event, chain=self._add(kind, _body(event)))

    def start_sitting(self, facts: Mapping[str, Any]) -> None:
        """Add the row under which a sitting's acts stand: software, protocol, manifest, machine, time."""
        self._add(_SITTING, _canonical({**facts, "at": _utc(self._now())}))

    def _add(self, kind: str, body: str) -> str:
        # The head may be one row behind, never two: without it nobody could tell that rows were cut off.
        if not self._has_head and not _write_head(self.path, self._rows, self._chain):
            raise DiskFullError(path=self.path.parent)
        chain = _link(self._chain, kind, body)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (self._rows + 1, kind, body, chain))
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as fault:
            raise _refusal(self.path, fault) from fault
        self._rows, self._chain = self._rows + 1, chain
        self._has_head = _write_head(self.path, self._rows, chain)
        return chain

    def events(self) -> tuple[Event, ...]:
        """List every act, the oldest first."""
        return tuple(_events(self._connection, self.path))

    def close(self) -> None:
        """Let go of the file; everything is on the disk already."""
        self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def open_store(
    path: Path,
    *,
    reader: str,
    protocol: ReadingProtocol,
    software: str,
    manifest_sha256: str,
    now: Callable[[], datetime],
    monotonic: Callable[[], float],
    host: str = "",
    journal: str = "auto",
) -> RatingStore:
    """Open a reader's file for a sitting, or make it.

    Parameters
    ----------
    path
        From `store_path`.
    protocol, software, manifest_sha256, host
        Under what the sitting's verdicts are given.
    now, monotonic
        The clocks: the local time with its zone, and seconds that never jump.
    journal
        "wal", "truncate", or "auto": "truncate" on network file systems, where WAL does not work.

    Raises
    ------
    RatingsError
        If somebody else has it open, it cannot be written, or it is not as it was left.
    DiskFullError
        If the disk is full.
    """
    make_folder(path.parent)
    lock = _lock(path)
    connection: sqlite3.Connection | None = None
    try:
        is_new = not path.exists()
        connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
        wanted = journal if journal != "auto" else "truncate" if is_on_network(path.parent) else "wal"
        connection.execute(f"PRAGMA journal_mode = {'WAL' if wanted == 'wal' else 'TRUNCATE'}")
        connection.execute("PRAGMA synchronous = FULL")
        if is_new or not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION}; {_SCHEMA} COMMIT;"
            )
            _sync_folder(path.parent)
        _require_sound(connection, path)
        store = RatingStore(path, connection, lock, now=now, monotonic=monotonic)
        store.start_sitting(
            {
                "reader": reader,
                "host": host,
                "software": software,
                "manifest_sha256": manifest_sha256,
                "protocol": protocol.to_json(),
                "protocol_sha256": protocol.digest,
            }
        )
    except BaseException as fault:
        if connection is not None:
            connection.close()
        os.close(lock)
        if isinstance(fault, sqlite3.Error):
            raise _refusal(path, fault) from fault
        raise
    return store


def read_events(path: Path) -> tuple[Event, ...]:
    """Read a reader's acts without changing anything, also while a sitting is open.

    Raises
    ------
    RatingsError
        If it is not there or cannot be read.
    """
    with _reading(path) as connection:
        return tuple(_events(connection, path))


def read_sittings(path: Path) -> tuple[dict[str, Any], ...]:
    """Read under what a reader's sittings stood, the oldest first.

    Raises
    ------
    RatingsError
        If it is not there or cannot be read.
    """
    with _reading(path) as connection:
        rows = connection.execute("SELECT body FROM rows WHERE kind = ? ORDER BY number", (_SITTING,))
        return tuple(json.loads(body) for (body,) in rows)


def verify_store(path: Path) -> Verified:
    """Work out the chain of a reader's file again, without changing anything.

    Raises
    ------
    RatingsError
        If it is not there.
    """
    try:
        with _reading(path) as connection:
            return _verify(connection, path)
    except RatingsError as fault:
        if not path.exists():
            raise
        return Verified(rows=0, first_bad=1, problem=str(fault.facts["problem"]))


def standing(events: Iterable[Event]) -> dict[tuple[str, int], Standing]:
    """Put acts together: what stands for each presentation of each case, once what was taken back is left out."""
    kept = list(events)
    undone = taken_back(kept)
    found: dict[tuple[str, int], Standing] = {}
    for event in kept:
        if not event.case:
            continue
        key = (event.case, event.presentation)
        now = found.get(key, Standing())
        now = replace(now, dwell_s=round(now.dwell_s + (event.dwell_s if event.kind != "open" else 0.0), 3))
        found[key] = now if event.event_id in undone else _with(now, event)
    return found


def taken_back(events: Iterable[Event]) -> frozenset[str]:
    """Name the acts that were taken back; one whose taking back was itself taken back is not among them."""
    undone: set[str] = set()
    for event in reversed(list(events)):
        if event.kind == "undo" and event.event_id not in undone:
            undone.add(event.target)
    return frozenset(undone)


def _with(now: Standing, event: Event) -> Standing:
    if event.kind == "rate":
        return replace(
            now,
            verdict=event.verdict,
            artefacts=event.artefacts,
            digest=event.digest,
            at=event.at,
            view=event.view,
            is_skipped=False,
            rated_by=event.event_id,
        )
    if event.kind == "tick":
        return replace(now, artefacts=event.artefacts)
    if event.kind == "note":
        return replace(now, note=event.note)
    if event.kind == "mark" and event.mark is not None:
        return replace(now, marks={**now.marks, event.event_id: event.mark})
    if event.kind == "unmark":
        return replace(now, marks={name: mark for name, mark in now.marks.items() if name != event.target})
    if event.kind == "skip":
        return replace(now, is_skipped=True)
    if event.kind == "open" and not now.verdict:
        return replace(now, digest=event.digest)
    return now


# -- rows --------------------------------------------------------------------------------------------------------------


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


_NOT_IN_BODY = ("number", "kind", "chain")


def _body(event: Event) -> str:
    content = {one.name: getattr(event, one.name) for one in fields(event) if one.name not in _NOT_IN_BODY}
    content["artefacts"] = list(event.artefacts)
    if event.mark is not None:
        content["mark"] = {"mm": list(event.mark.mm), "volume": event.mark.volume, "text": event.mark.text}
    return _canonical(content)


def _require_sound(connection: sqlite3.Connection, path: Path) -> None:
    checked = _verify(connection, path, is_open=True)
    if not checked.is_sound:
        raise _distrust(path, checked.problem)


def _link(before: str, kind: str, body: str) -> str:
    return hashlib.sha256(f"{before}\n{kind}\n{body}".encode("utf-8", "surrogatepass")).hexdigest()


def _events(connection: sqlite3.Connection, path: Path) -> Iterator[Event]:
    try:
        rows = connection.execute(
            "SELECT number, kind, body, chain FROM rows WHERE kind <> ? ORDER BY number", (_SITTING,)
        )
        for number, kind, body, chain in rows:
            content = json.loads(body)
            mark = content.pop("mark")
            yield Event(
                number=number,
                kind=kind,
                chain=chain,
                mark=Mark(mm=tuple(mark["mm"]), volume=mark["volume"], text=mark["text"]) if mark else None,
                artefacts=tuple(content.pop("artefacts")),
                **content,
            )
    except (sqlite3.Error, ValueError, KeyError, TypeError) as fault:
        raise _distrust(path, "a row cannot be read") from fault


def _end(connection: sqlite3.Connection) -> tuple[int, str]:
    last = connection.execute("SELECT number, chain FROM rows ORDER BY number DESC LIMIT 1").fetchone()
    return (int(last[0]), str(last[1])) if last else (0, "")


def _verify(connection: sqlite3.Connection, path: Path, *, is_open: bool = False) -> Verified:
    count, chain = 0, ""
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION or version != _VERSION:
            return Verified(rows=0, problem="it is no ratings file of this version")
        head = _read_head(path)
        before_head = chain
        for number, kind, body, listed in connection.execute(
            "SELECT number, kind, body, chain FROM rows ORDER BY number"
        ):
            count += 1
            if number != count:
                return Verified(rows=count, first_bad=count, problem=f"row {count} is missing")
            chain = _link(chain, kind, body)
            if chain != listed:
                return Verified(rows=count, first_bad=count, problem=f"row {count} is not as it was written")
            if head is not None and count == head[0]:
                before_head = chain
    except sqlite3.Error:
        return Verified(rows=count, first_bad=count + 1, problem=f"row {count + 1} cannot be read")
    if head is None:
        if count > 1:
            return Verified(rows=count, problem=f"{path.stem}.head, which tells how many rows there were, is missing")
    elif head[0] > count:
        return Verified(rows=count, first_bad=count + 1, problem=f"rows from {count + 1} to {head[0]} are missing")
    # A crash between the row and the head leaves the head one row behind, never more.
    elif head[0] < count - 1 or (head[0] and before_head != head[1]):
        return Verified(rows=count, first_bad=head[0], problem=f"row {head[0]} is not as it was written")
    elif is_open and head[0] < count:
        _write_head(path, count, chain)
    return Verified(rows=count)


# -- the file ----------------------------------------------------------------------------------------------------------


def _head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def _write_head(path: Path, rows: int, chain: str) -> bool:
    """Write down how many rows there are; False if that is refused, though the row itself is safe."""
    try:
        write_json(_head_path(path), {"rows": rows, "chain": chain})
    except (ScanwardError, OSError):
        return False
    return True


def _read_head(path: Path) -> tuple[int, str] | None:
    try:
        content = json.loads(_head_path(path).read_bytes())
        return int(content["rows"]), str(content["chain"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open without writing anything, not even the side files of WAL where they are not there."""
    if not path.is_file():
        raise RatingsError(path=path, problem="it is not there", remedy="Give the reader's name as it was given before")
    connection: sqlite3.Connection | None = None
    try:
        connection = connect_to_look(path, timeout=_BUSY_S)
        yield connection
    except sqlite3.Error as fault:
        raise _refusal(path, fault) from fault
    finally:
        if connection is not None:
            connection.close()


def _lock(path: Path) -> int:
    """Keep others out as long as this process lives, however it ends."""
    try:
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as fault:
        raise RatingsError(
            path=path, problem=f"it cannot be written ({fault.strerror})", remedy="Ask for the right to write there"
        ) from fault
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        os.close(descriptor)
        if fault.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise RatingsError(
                path=path,
                problem="another sitting of this reader is open",
                remedy="Close the other window, or read under another name",
            ) from None
        raise RatingsError(
            path=path, problem=f"it cannot be locked ({fault.strerror})", remedy="Choose a file system that knows locks"
        ) from fault
    return descriptor


def is_on_network(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Tell whether a folder lies on a network file system; False where that cannot be found out."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    real = os.path.realpath(folder)
    best, kind = "", ""
    for line in lines:
        words = line.split(" ")
        if len(words) < 3:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[1])
        if (real == place or real.startswith(place.rstrip("/") + "/")) and len(place) >= len(best):
            best, kind = place, words[2]
    return _NETWORK.fullmatch(kind) is not None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(path: Path, fault: sqlite3.Error) -> RatingsError | DiskFullError:
    code = getattr(fault, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(path=path.parent)
    known = {
        sqlite3.SQLITE_READONLY: ("it may not be written", "Ask for the right to write there"),
        sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "Ask for the right to read and write there"),
        sqlite3.SQLITE_BUSY: ("another program has it open", "Close the other program"),
        sqlite3.SQLITE_IOERR: ("the disk refuses", "Look after the disk before you go on"),
        sqlite3.SQLITE_CORRUPT: ("it is damaged", "Keep it as it is, and fetch the last backup"),
        sqlite3.SQLITE_NOTADB: ("it is no ratings file", "Keep it as it is, and fetch the last backup"),
    }
    problem, remedy = known.get(
        code, (f"the database refuses (code {code})", "Keep it as it is and look after the disk")
    )
    return RatingsError(path=path, problem=problem, remedy=remedy)


def _distrust(path: Path, problem: str) -> RatingsError:
    return RatingsError(
        path=path, problem=problem, remedy="Keep it as it is, and fetch the last backup, or read under another name"
    )


def _utc(moment: datetime) -> str:
    offset = moment.utcoffset()
    plain = moment.replace(tzinfo=None) - offset if offset is not None else moment
    return f"{plain.isoformat(timespec='milliseconds')}Z"
