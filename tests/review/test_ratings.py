"""What a reader said is kept: through crashes, full disks and other people's hands."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import DiskFullError, RatingsError, ScanwardError, UsageError
from tasks.review.ratings import (
    EVENT_KINDS,
    Event,
    Mark,
    RatingStore,
    is_on_network,
    open_store,
    read_events,
    read_sittings,
    standing,
    store_path,
    verify_store,
)
from tasks.review.reading import ReadingProtocol
from tests.builders.disks import tiny_disk
from tests.conftest import REPOSITORY

PROTOCOL = ReadingProtocol()
CASE = "SUB-0001_ses-1_001_a"


def _open(path: Path, *, journal: str = "auto") -> RatingStore:
    return open_store(
        path,
        reader=path.stem,
        protocol=PROTOCOL,
        software="0",
        manifest_sha256="0" * 64,
        now=lambda: datetime(2026, 3, 1, 23, 30, tzinfo=timezone(timedelta(hours=10))),
        monotonic=time.monotonic,
        host="reading-room",
        journal=journal,
    )


def _filled(path: Path, *, journal: str = "auto") -> tuple[Event, ...]:
    with _open(path, journal=journal) as store:
        first = store.append("open", case=CASE, presentation=1, digest="a")
        store.append("tick", case=CASE, presentation=1, digest="a", artefacts=["motion"])
        store.append("rate", case=CASE, presentation=1, digest="a", verdict="query", artefacts=["motion"], dwell_s=4)
        changed = store.append("rate", case=CASE, presentation=1, digest="a", verdict="reject", dwell_s=1.5)
        store.append("undo", case=CASE, presentation=1, target=changed.event_id)
        mark = store.append("mark", case=CASE, presentation=1, mark=Mark(mm=(1.0, -2.5, 3.0), volume=4, text="ghost"))
        store.append("mark", case=CASE, presentation=1, mark=Mark(mm=(0.0, 0.0, 0.0)))
        store.append("unmark", case=CASE, presentation=1, target=mark.event_id)
        store.append("note", case=CASE, presentation=1, note='ringing, mild, left\n"so" \u2028 \U0001f9e0')
        assert first.number == 2, "the sitting is the first row"
        return store.events()


@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_what_was_said_stands_when_it_is_opened_again(journal: str, tmp_path: Path) -> None:
    path = tmp_path / "ratings" / "ann.db"
    events = _filled(path, journal=journal)
    assert read_events(path) == events
    found = standing(events)[CASE, 1]
    assert (found.verdict, found.artefacts, found.digest) == ("query", ("motion",), "a")
    assert found.note == 'ringing, mild, left\n"so" \u2028 \U0001f9e0'
    assert [mark.mm for mark in found.marks.values()] == [(0.0, 0.0, 0.0)]
    assert found.dwell_s == 5.5
    assert (events[0].at, events[0].utc_offset_min) == ("2026-03-01T13:30:00.000Z", 600)
    (sitting,) = read_sittings(path)
    assert (sitting["reader"], sitting["host"], sitting["protocol_sha256"]) == ("ann", "reading-room", PROTOCOL.digest)
    with _open(path, journal=journal) as store:
        assert store.events() == events
        assert store.append("close").number == events[-1].number + 2
    assert verify_store(path).is_sound
    assert len(read_sittings(path)) == 2


_texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"kind": st.sampled_from(sorted(EVENT_KINDS)), "case": _texts, "note": _texts, "verdict": _texts},
            optional={
                "artefacts": st.lists(_texts, max_size=3),
                "mark": st.builds(
                    Mark, mm=st.tuples(*[st.floats(-1e3, 1e3)] * 3), volume=st.integers(-1, 500), text=_texts
                ),
                "view": st.dictionaries(_texts, st.floats(allow_nan=False, allow_infinity=False) | _texts, max_size=3),
                "dwell_s": st.floats(0, 1e4),
            },
        ),
        max_size=6,
    )
)
@settings(max_examples=25, deadline=None)
def test_every_act_comes_back_as_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, acts: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("acts") / "ann.db"
    with _open(path) as store:
        given_back = tuple(store.append(**act) for act in acts)  # type: ignore[arg-type]
    assert read_events(path) == given_back
    assert verify_store(path).is_sound


def test_rows_cannot_be_changed_or_removed(tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    _filled(path)
    with sqlite3.connect(path) as connection:
        for act in ("UPDATE rows SET body = '{}'", "DELETE FROM rows WHERE number = 3"):
            with pytest.raises(sqlite3.IntegrityError, match="rows are never"):
                connection.execute(act)


def _tamper(path: Path, *acts: str) -> None:
    with sqlite3.connect(path) as connection:
        for trigger in ("rows_stay", "rows_are_kept"):
            connection.execute(f"DROP TRIGGER {trigger}")
        for act in acts:
            connection.execute(act)
    connection.close()


PUT_IN = (
    "UPDATE rows SET number = number + 1000 WHERE number > 5",
    "INSERT INTO rows SELECT 6, kind, body, chain FROM rows WHERE number = 5",
    "UPDATE rows SET number = number - 999 WHERE number > 1000",
)
SWAPPED = (
    "UPDATE rows SET number = 999 WHERE number = 3",
    "UPDATE rows SET number = 3 WHERE number = 4",
    "UPDATE rows SET number = 4 WHERE number = 999",
)


@pytest.mark.parametrize(
    ("acts", "first_bad"),
    [
        (["UPDATE rows SET body = replace(body, 'query', 'accept') WHERE number = 4"], 4),
        (["UPDATE rows SET kind = 'note' WHERE number = 2"], 2),
        (["DELETE FROM rows WHERE number = 5"], 5),
        (["DELETE FROM rows WHERE number > 7"], 8),
        (PUT_IN, 6),
        (SWAPPED, 3),
    ],
    ids=["changed", "of another kind", "removed", "cut off", "put in", "swapped"],
)
def test_whatever_is_done_to_it_is_seen(acts: list[str], first_bad: int, tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    _filled(path)
    assert verify_store(path).is_sound
    _tamper(path, *acts)
    found = verify_store(path)
    assert (found.is_sound, found.first_bad) == (False, first_bad)
    with pytest.raises(RatingsError, match="row"):
        _open(path)


def test_a_new_chain_over_other_verdicts_is_seen_by_its_head(tmp_path: Path) -> None:
    path, other = tmp_path / "ann.db", tmp_path / "other" / "ann.db"
    _filled(path)
    _filled(other)
    shutil.copy(other, path)
    assert "is not as it was written" in verify_store(path).problem


def test_flipped_bits_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    _filled(path, journal="truncate")
    whole = path.read_bytes()
    rng = random.Random(3)
    content = whole.find(b'"verdict":"query"')
    for place in [content + 11, *(whole.find(b'"at":"') + rng.randrange(6, 20) for _ in range(5))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not verify_store(path).is_sound
    path.write_bytes(whole[: len(whole) // 2])
    assert not verify_store(path).is_sound
    path.write_bytes(b"no database at all" * 100)
    assert not verify_store(path).is_sound


def test_a_second_sitting_is_refused_while_the_first_is_open(tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    with _open(path), pytest.raises(RatingsError, match="another sitting of this reader is open"):
        _open(path)
    with _open(path) as store:
        assert read_events(path) == store.events(), "looking on is no sitting"


def test_checking_changes_nothing_and_needs_no_right_to_write(tmp_path: Path) -> None:
    path = tmp_path / "ratings" / "ann.db"
    _filled(path)
    before = {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in path.parent.iterdir()}
    path.parent.chmod(0o500)
    path.chmod(0o400)
    try:
        assert verify_store(path).is_sound
        assert read_events(path)
    finally:
        path.parent.chmod(0o700)
    assert {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in path.parent.iterdir()} == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def _fill(store: RatingStore, kept: list[Event]) -> None:
    for number in range(2000):
        kept += [store.append("note", case=CASE, presentation=1, note=f"{number} {'x' * 500}")]


def test_a_full_disk_is_told_and_nothing_that_was_told_is_lost(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=160) as disk:
        path = disk / "ann.db"
        kept: list[Event] = []
        with _open(path) as store, pytest.raises((DiskFullError, RatingsError)):
            _fill(store, kept)
        assert kept
        shutil.copytree(disk, tmp_path / "copy")
    assert read_events(tmp_path / "copy" / "ann.db")[: len(kept)] == tuple(kept)
    assert verify_store(tmp_path / "copy" / "ann.db").is_sound


def test_a_disk_that_was_full_locks_nobody_out(tmp_path: Path) -> None:
    """Rows may still find room in the journal where the head finds none: no row is taken then."""
    with tiny_disk(tmp_path / "disk", kilobytes=12_000) as disk:
        path = disk / "ann.db"
        ballast = disk / "ballast"
        with _open(path) as store:
            for number in range(1400):  # by then the journal begins anew in the room it has
                store.append("note", case=CASE, presentation=1, note=str(number))
            with contextlib.suppress(OSError), ballast.open("wb") as stream:
                while True:
                    stream.write(bytes(4096))
                    stream.flush()
            kept: list[Event] = []
            with pytest.raises((DiskFullError, RatingsError)):
                _fill(store, kept)
            assert verify_store(path).is_sound
            ballast.unlink()
            last = store.append("note", case=CASE, presentation=1, note="room again")
        assert verify_store(path).is_sound
        with _open(path) as store:
            assert store.events()[-1] == last


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "ratings").write_text("a file where the folder should be")
    with pytest.raises(ScanwardError) as fault:
        _open(tmp_path / "ratings" / "ann.db")
    assert "ratings" in str(fault.value)


@pytest.mark.parametrize("name", ["", "../ann", "ann/b", "a n", ".hidden", "x" * 65])
def test_names_that_are_no_file_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        store_path(tmp_path, name)


def test_network_file_systems_are_known(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    real = os.path.realpath(tmp_path)
    for kind, expected in (("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False), ("tmpfs", False)):
        mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {real} {kind} rw 0 0\n")
        assert is_on_network(tmp_path, mounts) is expected
    mounts.write_text(f"server:/x {real} nfs rw 0 0\n/dev/b {real}/local ext4 rw 0 0\n")
    (tmp_path / "local").mkdir()
    assert not is_on_network(tmp_path / "local", mounts)
    assert not is_on_network(tmp_path, tmp_path / "absent")


SITTING = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from tasks.review.ratings import open_store
from tasks.review.reading import ReadingProtocol
path = Path(sys.argv[1])
store = open_store(path, reader="ann", protocol=ReadingProtocol(), software="0", manifest_sha256="",
                   now=lambda: datetime.now(UTC), monotonic=time.monotonic)
print("open", flush=True)
for number in range(100000):
    event = store.append("rate", case=f"case-{number}", presentation=1, verdict="accept", digest="d")
    print(event.event_id, flush=True)
"""


def _kill_once(path: Path, seconds: float) -> None:
    before = [event.event_id for event in read_events(path)] if path.exists() else []
    command = [sys.executable, "-c", SITTING, path]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=path.parent) as sitting:
        assert sitting.stdout is not None
        assert sitting.stdout.readline() == "open\n"
        time.sleep(seconds)
        sitting.send_signal(signal.SIGKILL)
        told = [line.strip() for line in sitting.stdout if line.endswith("\n")]
    kept = [event.event_id for event in read_events(path)]
    assert kept[: len(before) + len(told)] == before + told
    assert len(kept) <= len(before) + len(told) + 1, "at most the one that was being written"
    assert verify_store(path).is_sound


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.long)])
def test_what_was_acknowledged_outlives_a_kill(kills: int, tmp_path: Path) -> None:
    rng = random.Random(kills)
    path = tmp_path / "ann.db"
    for _ in range(kills):
        _kill_once(path, rng.uniform(0.0, 0.12))
    with _open(path) as store:
        assert len(store.events()) > kills
        assert len(read_sittings(path)) == kills + 1


def test_a_damaged_row_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    _filled(path)
    _tamper(path, "UPDATE rows SET body = '{' WHERE number = 3")
    with pytest.raises(RatingsError, match="cannot be read"):
        read_events(path)


def test_the_body_of_a_row_is_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    _filled(path)
    with sqlite3.connect(path) as connection:
        for (body,) in connection.execute("SELECT body FROM rows"):
            assert isinstance(json.loads(body), dict)
    connection.close()
