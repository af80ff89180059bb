"""Replacements are keyed, consistent and valid, and dates move by whole days and nothing else."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import re
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.uid import UID, UID_dictionary

from tasks.deidentify.identity import (
    HIGHEST_AGE_YEARS,
    LONGEST_SHIFT_DAYS,
    SECRET_BYTES,
    SHORTEST_SHIFT_DAYS,
    Identity,
    cap_age,
    load_secret,
    patient_key,
    shift_date,
    shift_date_time,
)
from tasks.errors import KeyMapError, WorkspaceError
from tests import strategies

SECRET = bytes(range(32))
KNOWN = Identity(SECRET)
OTHER = Identity(bytes(32))

shifts = st.integers(-LONGEST_SHIFT_DAYS, -SHORTEST_SHIFT_DAYS)
dates = st.dates(min_value=dt.date(1900, 1, 1), max_value=dt.date(2100, 12, 31))


def digits(date: dt.date) -> bytes:
    return date.isoformat().replace("-", "").encode()


# ---- keys


def test_each_purpose_has_a_key_of_its_own() -> None:
    """Whoever could compare two outputs for the same input would learn the one from the other."""
    text = "1.2.3.4"
    uid = int(KNOWN.new_uid(text).removeprefix("2.25.")).to_bytes(16)
    rank = KNOWN.rank(text)
    tag = bytes.fromhex(KNOWN.tag(text, digits=64))
    shift = KNOWN.shift_for(text)
    assert len({uid[:6], rank[:6], tag[:6]}) == 3
    span = LONGEST_SHIFT_DAYS - SHORTEST_SHIFT_DAYS + 1
    # The shift is not the remainder of another output, nor is any output an unkeyed or plainly keyed hash of its input.
    for part in (uid[:8], rank[:8], tag[:8], hashlib.sha256(text.encode()).digest()[:8]):
        assert shift != -(SHORTEST_SHIFT_DAYS + int.from_bytes(part) % span)
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        for keyed in (b"", SECRET):
            digest = hashlib.new(algorithm, keyed + text.encode()).digest()
            assert digest[:6] not in (uid[:6], rank[:6], tag[:6])


def test_another_secret_gives_other_replacements() -> None:
    assert KNOWN.new_uid("1.2.3.4") != OTHER.new_uid("1.2.3.4")
    assert KNOWN.rank("a") != OTHER.rank("a")
    assert KNOWN.tag("a") != OTHER.tag("a")
    assert KNOWN.fingerprint() != OTHER.fingerprint()
    assert [KNOWN.shift_for(str(number)) for number in range(9)] != [
        OTHER.shift_for(str(number)) for number in range(9)
    ]


def test_the_fingerprint_tells_neither_the_secret_nor_a_key() -> None:
    told = bytes.fromhex(KNOWN.fingerprint())
    assert SECRET not in told
    assert told != hashlib.sha256(SECRET).digest()
    assert KNOWN.fingerprint() == Identity(SECRET).fingerprint()


def test_nothing_depends_on_the_process_or_on_what_came_before() -> None:
    """Python salts its own hashes anew in every process; a replacement must not follow them."""
    told = (
        "from tasks.deidentify.identity import Identity\n"
        "i = Identity(bytes(range(32)))\n"
        "print(i.new_uid('1.2.3.4'), i.shift_for('id:A'), i.tag('a', 'b'), i.rank('a').hex())"
    )
    fresh = Identity(SECRET)
    for number in range(1000):
        fresh.new_uid(f"1.2.{number}")
    here = f"{fresh.new_uid('1.2.3.4')} {fresh.shift_for('id:A')} {fresh.tag('a', 'b')} {fresh.rank('a').hex()}"
    for seed in ("0", "1"):
        there = subprocess.run(
            [sys.executable, "-c", told],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here


# ---- UIDs


@given(st.text(min_size=1, max_size=80))
def test_a_new_uid_is_valid_and_made_from_a_uuid(text: str) -> None:
    """PS3.5 section B.2: 2.25 and the decimal form of a UUID; RFC 9562 section 5.8: version 8, variant 10."""
    assume(text not in UID_dictionary)
    new = KNOWN.new_uid(text)
    assert len(new) <= 44
    assert UID(new).is_valid
    value = uuid.UUID(int=int(new.removeprefix("2.25.")))
    assert (value.version, value.variant) == (8, uuid.RFC_4122)
    assert new == KNOWN.new_uid(text) == Identity(SECRET).new_uid(text)


@given(st.lists(st.text(min_size=1, max_size=20), max_size=30, unique=True))
def test_different_uids_become_different_uids(texts: list[str]) -> None:
    assert len({KNOWN.new_uid(text) for text in texts}) == len(texts)


@given(st.text(max_size=80))
def test_a_uid_that_was_replaced_is_not_replaced_again(text: str) -> None:
    new = KNOWN.new_uid(text)
    for identity in (KNOWN, Identity(SECRET)):
        assert identity.new_uid(new) == new
        assert identity.has_made(new) == (new not in UID_dictionary)
    # To another secret it is a stranger's UID, as ours was to it.
    assert OTHER.has_made(new) is False
    if new not in UID_dictionary:
        assert OTHER.new_uid(new) != new


@given(st.text(min_size=1, max_size=20), st.integers(0, 127))
def test_a_uid_of_ours_with_a_flipped_bit_is_a_strangers(text: str, bit: int) -> None:
    number = int(KNOWN.new_uid(f"1.2.{text}").removeprefix("2.25."))
    assert not KNOWN.has_made(f"2.25.{number ^ 1 << bit}")


@given(st.uuids(), st.sampled_from([4, 8]))
def test_no_uuid_of_anybody_else_passes_for_ours(value: uuid.UUID, version: int) -> None:
    number = value.int & ~(0xF << 76 | 3 << 62) | version << 76 | 2 << 62
    assert not KNOWN.has_made(f"2.25.{number}")


@pytest.mark.parametrize("spoilt", ["{}0", "0{}", "{} ", "{}\n", " {}", "{}\0", "{}.1", "1.{}", "{}\\{}"])
def test_only_the_one_way_of_writing_a_uid_is_ours(spoilt: str) -> None:
    """What is not that very text has not been replaced, and must be."""
    new = KNOWN.new_uid("1.2.3.4")
    assert not KNOWN.has_made(spoilt.replace("{}", new))
    assert not KNOWN.has_made(new.replace("2.25.", "2.25.0"))
    assert not KNOWN.has_made(new.replace("2.25.", "2.25.+"))
    arabic = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
    assert not KNOWN.has_made("2.25." + new.removeprefix("2.25.").translate(arabic))


def test_the_check_of_a_uid_has_a_key_of_its_own() -> None:
    """With the key of UIDs alone nobody can say what was replaced, nor the other way round."""
    number = int(KNOWN.new_uid("1.2.3.4").removeprefix("2.25."))
    check = number.to_bytes(16)[-5:]
    drawn = (number >> 80) << 34 | (number >> 64 & 0xFFF) << 22 | number >> 40 & 0x3FFFFF
    for key in (b"", SECRET, KNOWN._uid_key):
        assert not hmac.digest(key, drawn.to_bytes(11), "sha256").startswith(check)


def test_the_standards_own_uids_stay() -> None:
    assert len(UID_dictionary) > 400
    assert all(KNOWN.new_uid(uid) == uid for uid in UID_dictionary)


def test_many_uids_are_mapped_the_same_though_not_all_are_remembered() -> None:
    uids = [f"1.2.{number}" for number in range(500_100)]
    first = KNOWN.new_uid(uids[0])
    busy = Identity(SECRET)
    for uid in uids:
        busy.new_uid(uid)
    assert len(busy._uids) < 500_002
    assert busy.new_uid(uids[0]) == first


# ---- names and numbers


@given(st.text(max_size=30), st.text(max_size=30))
def test_shifts_lie_in_their_range_and_are_whole_days(patient: str, other: str) -> None:
    shift = KNOWN.shift_for(patient)
    assert isinstance(shift, int)
    assert -LONGEST_SHIFT_DAYS <= shift <= -SHORTEST_SHIFT_DAYS
    assert shift == Identity(SECRET).shift_for(patient)


def test_shifts_use_their_whole_range() -> None:
    drawn = [KNOWN.shift_for(f"id:{number}") for number in range(20_000)]
    assert len(set(drawn)) > 0.99 * (LONGEST_SHIFT_DAYS - SHORTEST_SHIFT_DAYS + 1)
    assert max(drawn) == -SHORTEST_SHIFT_DAYS
    assert min(drawn) == -LONGEST_SHIFT_DAYS


@given(st.text(max_size=30))
def test_shifts_of_whole_weeks_keep_the_day_of_the_week(patient: str) -> None:
    shift = KNOWN.shift_for(patient, whole_weeks=True)
    assert shift % 7 == 0
    assert -LONGEST_SHIFT_DAYS <= shift <= -SHORTEST_SHIFT_DAYS
    assert shift == Identity(SECRET).shift_for(patient, whole_weeks=True)


def test_shifts_of_whole_weeks_use_their_whole_range() -> None:
    drawn = {KNOWN.shift_for(f"id:{number}", whole_weeks=True) for number in range(6_000)}
    assert drawn == {-days for days in range(SHORTEST_SHIFT_DAYS, LONGEST_SHIFT_DAYS + 1) if days % 7 == 0}


def test_a_tag_tells_its_parts_apart() -> None:
    assert KNOWN.tag("ab", "c") != KNOWN.tag("a", "bc") != KNOWN.tag("abc")
    assert re.fullmatch("[0-9a-f]{8}", KNOWN.tag("a"))
    assert KNOWN.tag("a", digits=12).startswith(KNOWN.tag("a"))


def test_patients_are_told_apart_by_id_then_name_then_study() -> None:
    assert patient_key("A", "B", "1.2") == patient_key("A", "C", "1.3")
    assert patient_key("", "B", "1.2") == patient_key("", "B", "1.3")
    assert patient_key("", "", "1.2") != patient_key("", "", "1.3")
    # The same text in another role is another patient.
    assert len({patient_key("1.2", "", ""), patient_key("", "1.2", ""), patient_key("", "", "1.2")}) == 3


# ---- dates


@given(dates, dates, shifts)
def test_the_days_between_two_dates_are_kept(one: dt.date, other: dt.date, shift: int) -> None:
    new = [dt.datetime.strptime(shift_date(digits(day), shift).decode(), "%Y%m%d") for day in (one, other)]  # type: ignore[union-attr] # noqa: DTZ007
    assert new[1] - new[0] == other - one
    assert new[0].date() == one + dt.timedelta(days=shift)


@given(
    dates,
    shifts,
    st.sampled_from(["", "10", "1011", "101112", "101112.1", "101112.123456", "235960"]),
    st.sampled_from(["", "+0800", "-0330", "+0000"]),
)
def test_a_date_time_keeps_its_time_its_fraction_and_its_zone(day: dt.date, shift: int, time: str, zone: str) -> None:
    """The day moves alone: a time of day means the same in its zone before and after."""
    moved = shift_date_time(digits(day) + time.encode() + zone.encode(), shift)
    assert moved == (shift_date(digits(day), shift) or b"") + time.encode() + zone.encode()


@pytest.mark.parametrize(
    ("value", "days", "expected"),
    [
        (b"20240229", -366, b"20230228"),  # a leap day, moved by a leap year's length
        (b"20240229", -1461, b"20200229"),  # and by four years
        (b"20240301", -1, b"20240229"),
        (b"20230301", -1, b"20230228"),
        (b"21000301", -1, b"21000228"),  # 2100 is no leap year
        (b"20000301", -1, b"20000229"),  # 2000 was one
        (b"20240101", -366, b"20221231"),
        (b"2024.02.29", -366, b"20230228"),  # as ACR-NEMA wrote it
        (b"20240229 ", -366, b"20230228"),
        (b"20240229\0", -366, b"20230228"),
        (b" 20240229", -366, b"20230228"),
        (b"00010102", -1, b"00010101"),  # the first day of the calendar
        (b"00010101", -1, None),
        (b"99991231", 1, None),
        (b"20230229", -366, None),
        (b"20241301", -366, None),
        (b"20240100", -366, None),
        (b"00000000", -366, None),
        (b"2024", -366, None),
        (b"202402291", -366, None),
        (b"20240229-20240301", -366, None),
        (b"2024-02-29", -366, None),
        (b"29 Feb 2024", -366, None),
        ("２０２４０２２９".encode(), -366, None),
        (b"", -366, None),
        (b"        ", -366, None),
    ],
)
def test_dates(value: bytes, days: int, expected: bytes | None) -> None:
    assert shift_date(value, days) == expected


@pytest.mark.parametrize(
    ("value", "days", "expected"),
    [
        (b"2024", -366, b"2022"),  # 1 January 2024, moved to 31 December 2022
        (b"202402", -366, b"202301"),
        (b"20240229", -366, b"20230228"),
        (b"2024022910", -366, b"2023022810"),
        (b"20240229235960.999999-0500", -366, b"20230228235960.999999-0500"),
        (b"2024+0800", -366, b"2022+0800"),
        (b"20240229101112.1 ", -366, b"20230228101112.1"),
        (b"20240229101112.", -366, None),
        (b"20240229101112.1234567", -366, None),
        (b"202402291", -366, None),
        (b"20240229 101112", -366, None),
        (b"2024022920240229", -366, None),  # the date itself, where the time should be
        (b"20240229101112.20240229", -366, None),
        (b"20240229.1234", -366, None),
        (b"20240229101112+08", -366, None),
        (b"20240229101112-123456789", -366, None),
        (b"2024.02.29", -366, None),
        (b"20240230101112", -366, None),
        (b"00010101101112", -1, None),
        (b"now", -366, None),
        (b"", -366, None),
    ],
)
def test_date_times(value: bytes, days: int, expected: bytes | None) -> None:
    assert shift_date_time(value, days) == expected


# ---- ages


@pytest.mark.parametrize(
    ("age", "told"),
    [
        (b"000D", b"000D"),
        (b"003W", b"003W"),
        (b"018M", b"018M"),
        (b"045Y", b"045Y"),
        (b"089Y", b"089Y"),
        (b"090Y", b"090Y"),
        (b"091Y", b"090Y"),
        (b"093Y", b"090Y"),
        (b"999Y", b"090Y"),
        (b"999M", b"999M"),  # 83 years
        (b"999W", b"999W"),
        (b"999D", b"999D"),
        (b" 045Y", b"045Y"),
        (b"045Y\0", b"045Y"),
        (b"1200M", b""),
        (b"5000W", b""),
        (b"93Y", b""),
        (b"093", b""),
        (b"093y", b""),
        (b"93 years", b""),
        (b"093Y, Doe", b""),
        (b"", b""),
    ],
)
def test_ages_above_89_are_told_as_90_and_what_is_no_age_is_not_told(age: bytes, told: bytes) -> None:
    assert HIGHEST_AGE_YEARS == 89
    assert cap_age(age) == told
    assert cap_age(told) == told


@given(st.binary(max_size=8))
def test_no_text_passes_as_an_age_or_a_date(value: bytes) -> None:
    assert re.fullmatch(rb"(\d{3}[DWMY])?", cap_age(value))
    assert re.fullmatch(rb"\d{8}", shift_date(value, -366) or b"20000101")
    assert re.fullmatch(rb"[0-9.+-]{4,}", shift_date_time(value, -366) or b"2000")


@given(strategies.header_texts())
def test_any_text_can_be_replaced(text: str) -> None:
    """Even one that no encoding has, such as half of a surrogate pair."""
    assert KNOWN.new_uid(text)
    assert KNOWN.shift_for(text) < 0
    assert KNOWN.tag(text)
    assert KNOWN.rank(text)


# ---- the secret


def test_the_secret_is_drawn_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    before = os.umask(0)
    try:
        drawn = load_secret(path)
    finally:
        os.umask(before)
    assert len(drawn) == SECRET_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_secret(path) == drawn == path.read_bytes()
    assert load_secret(tmp_path / "another") != drawn
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["another", "secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_secret_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    drawn = load_secret(path)
    path.chmod(mode)
    with pytest.raises(KeyMapError, match="others than its owner") as fault:
        load_secret(path)
    assert drawn.hex() not in str(fault.value)
    assert path.read_bytes() == drawn


@pytest.mark.parametrize("content", [b"", b"short", bytes(SECRET_BYTES - 1)])
def test_a_secret_that_was_cut_is_refused_and_not_drawn_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyMapError, match="fewer than 32 bytes"):
        load_secret(path)
    assert path.read_bytes() == content


def test_a_longer_secret_of_ones_own_is_used_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"and more")
    path.chmod(0o600)
    assert load_secret(path) == SECRET + b"and more"
    assert Identity(load_secret(path)).new_uid("1.2.3") != KNOWN.new_uid("1.2.3")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkspaceError):
        load_secret(tmp_path / "file" / "secret")


def test_processes_that_start_together_get_one_secret(tmp_path: Path) -> None:
    eager = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tasks.deidentify.identity import load_secret\n"
        "sys.stdin.readline()\n"
        "for number in range(50): print(load_secret(Path(sys.argv[1]) / str(number)).hex())\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", eager, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    told = [process.communicate()[0] for process in started]
    assert len(told[0].split()) == 50
    assert set(told) == {told[0]}


def test_a_process_killed_while_it_draws_the_secret_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    """Killed at each call that touches the disk; the next run draws or finds a whole secret."""
    dying = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tasks.deidentify import identity\n"
        "def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(os if sys.argv[2] != 'token_bytes' else identity.secrets, sys.argv[2], die)\n"
        "identity.load_secret(Path(sys.argv[1]))\n"
    )
    for step in ("token_bytes", "fsync", "link"):
        path = tmp_path / step
        ended = subprocess.run([sys.executable, "-c", dying, str(path), step], check=False, capture_output=True)
        assert ended.returncode == -9, ended.stderr.decode()
        assert len(load_secret(path)) == SECRET_BYTES
