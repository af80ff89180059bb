"""What an export has to say of its source, worked out with pydicom and the profile, without the rewriter's help."""

from __future__ import annotations

import datetime as dt
import functools
import io
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pydicom
from pydicom import hooks
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from tasks.deidentify.ge import clean_protocol_block, clean_raw_data_header
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.private import PrivateAction, PrivateRule, load_private_table
from tasks.deidentify.profile import DEFAULT_PROFILE, STAMPED_TAGS, Action, Option, Profile, Rules, Surroundings
from tasks.deidentify.siemens import clean_csa, clean_protocol
from tasks.dicom.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, walk
from tasks.dicom.syntax import read_start
from tests.dicom.oracle import CHOICES, compare, spans

SUBJECT = Subject(pseudonym="SUB-0001", shift_days=-1000)
IDENTITY = Identity(bytes(range(32)))

Place = tuple[int, ...]
"""Tags and zero-based item numbers, alternating, that lead to an element."""

MARKERS = (ITEM, ITEM_END, SEQUENCE_END)

_WORD_SIZES = {"AT": 2, "OW": 2, "SS": 2, "US": 2, "FL": 4, "OF": 4, "OL": 4, "SL": 4, "UL": 4}
_WORD_SIZES |= {"FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8}

_DUMMY_TEXT_VRS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
_DUMMIES = {"DA": b"19000101", "DT": b"19000101000000", "TM": b"000000", "IS": b"0 ", "DS": b"0 ", "AS": b"000Y"}
_DUMMIES |= dict.fromkeys(_DUMMY_TEXT_VRS, b"REMOVED ")


class Value(NamedTuple):
    """A VR and a raw value, little endian; of a sequence the number of its items."""

    vr: str
    raw: bytes


def read(content: bytes) -> Dataset:
    """Read a whole file with pydicom, which says nothing of what it does not like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(content), force=True)


def values(dataset: Dataset) -> dict[Place, Value]:
    """Flatten a data set that was just read: every element at its place, undecoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        swapped = getattr(dataset, "original_encoding", (None, True))[1] is False
        return dict(_flatten(dataset, (), swapped=swapped))


def _flatten(dataset: Dataset, place: Place, *, swapped: bool) -> Iterator[tuple[Place, Value]]:
    for tag in list(dataset.keys()):
        vr, raw = _raw(dataset, tag, swapped=swapped)
        here = (*place, int(tag))
        if vr == "SQ":
            items = dataset[tag].value
            yield here, Value("SQ", str(len(items)).encode())
            for number, item in enumerate(items):
                yield from _flatten(item, (*here, number), swapped=swapped)
        else:
            yield here, Value(vr, raw)


def _raw(dataset: Dataset, tag: Any, *, swapped: bool) -> tuple[str, bytes]:
    item: Any = dataset._dict[tag]
    if isinstance(item, RawDataElement):
        resolved: dict[str, str] = {}
        hooks.raw_element_vr(item, resolved, ds=dataset)
        vr = resolved["VR"]
        raw = bytes(item.value or b"") if vr != "SQ" else b""
        if swapped and vr in _WORD_SIZES:
            size = _WORD_SIZES[vr]
            raw = b"".join(raw[at : at + size][::-1] for at in range(0, len(raw), size))
    else:
        # What pydicom decodes while it reads: sequences, (0008,0005) and (0028,0103).
        vr, value = item.VR, item.value
        parts = [] if value is None else [value] if isinstance(value, str | int) else list(value)
        raw = b""
        if vr != "SQ":
            raw = b"".join(struct.pack("<H", part) for part in parts if isinstance(part, int))
            raw = raw or "\\".join(str(part or "") for part in parts).encode("latin-1")
    return CHOICES.get(vr, vr), raw


def expected_values(
    dataset: Dataset, profile: Profile = DEFAULT_PROFILE, identity: Identity = IDENTITY, subject: Subject = SUBJECT
) -> dict[Place, Value]:
    """Say what the export of a data set that was just read has to hold, stamps apart."""
    source = values(dataset)
    sop_class = source[0x00080016,].raw.decode("ascii")
    private = Option.RETAIN_SAFE_PRIVATE in profile.options
    return dict(_expect(source, (), profile.actions(sop_class), identity, subject, private=private))


def _expect_private(
    source: dict[Place, Value], here: Place, rules: Rules, identity: Identity, subject: Subject, *, private: bool
) -> Iterator[tuple[Place, Value]]:
    """Say what becomes of a private element: what the table lists, by the creator of its block."""
    old, tag, table = source[here], here[-1], load_private_table()
    group, number = tag >> 16, tag & 0xFFFF
    if not private or rules._surroundings is Surroundings.DUMMY:
        return
    if 0x10 <= number <= 0xFF:
        if any(rule.group == group and rule.creator == creator_of(old) for rule in all_rules()):
            yield here, old
        return
    reserved = source.get((*here[:-1], group << 16 | number >> 8))
    rule = table.rule(creator_of(reserved), group, number & 0xFF) if reserved else None
    if rule is None:
        return
    if rule.action is PrivateAction.RECURSE:
        if old.vr == "SQ":
            yield here, old
            inside = {there: value for there, value in source.items() if there[: len(here)] == here != there}
            for item in range(int(old.raw)):
                yield from _expect(inside, (*here, item), rules.nested(tag), identity, subject, private=private)
    elif old.vr == "SQ":
        return
    elif rule.action is PrivateAction.KEEP:
        if rule.admits(old.raw, old.vr):
            yield here, old
    elif rule.action in (PrivateAction.UID, PrivateAction.DATE):
        action = Action.UID if rule.action is PrivateAction.UID else Action.DATE
        yield here, Value(old.vr, expected_value(tag, old, action, identity, subject, listed=True))
    else:
        cleaned = CLEANERS[rule.action](old.raw)
        if cleaned is not None:
            yield here, Value(old.vr, even(cleaned, b"\0"))


CLEANERS = {
    PrivateAction.CSA: clean_csa,
    PrivateAction.PROTOCOL: clean_protocol,
    PrivateAction.GE_BLOCK: clean_protocol_block,
    PrivateAction.GE_HEADER: clean_raw_data_header,
}


def creator_of(value: Value) -> str:
    """Return the name that a private creator states."""
    return value.raw.decode("latin-1").strip(" \0")


@functools.cache
def all_rules() -> list[PrivateRule]:
    """List the rows of the table, also under the other spellings of their creators."""
    table = load_private_table()
    return [replace(rule, creator=creator) for (creator, _, _), rule in table.by_element.items()]


def _expect(
    source: dict[Place, Value],
    place: Place,
    rules: Rules,
    identity: Identity,
    subject: Subject,
    *,
    private: bool,
) -> Iterator[tuple[Place, Value]]:
    depth = len(place) + 1
    for here, old in source.items():
        if len(here) != depth or here[:-1] != place:
            continue
        tag = here[-1]
        if depth == 1 and tag in STAMPED_TAGS:
            continue
        if tag >> 16 & 1:
            yield from _expect_private(source, here, rules, identity, subject, private=private)
            continue
        action = rules.action(tag, old.vr)
        if old.vr == "SQ":
            if action is Action.EMPTY or (action is Action.KEEP and tag in rules.by_tag):
                yield here, Value("SQ", b"0")
            elif action is Action.CLEAN_SEQUENCE:
                yield here, old
                inside = {
                    there: value for there, value in source.items() if there[:depth] == here and len(there) > depth
                }
                for number in range(int(old.raw)):
                    yield from _expect(inside, (*here, number), rules.nested(tag), identity, subject, private=private)
        elif action not in (Action.REMOVE, Action.CLEAN_SEQUENCE):
            listed = tag in rules.by_tag
            yield here, Value(old.vr, expected_value(tag, old, action, identity, subject, listed=listed))


def expected_value(
    tag: int, old: Value, action: Action, identity: Identity, subject: Subject, *, listed: bool
) -> bytes:
    """Say what becomes of one value, padding included."""
    vr, raw = old
    if action is Action.KEEP:
        known = DicomDictionary[tag][0] if tag in DicomDictionary else vr
        wrong = listed and vr != "UN" and vr not in known
        return b"" if wrong or not can_be(known if vr == "UN" else vr, raw) else raw
    if action is Action.PSEUDONYM:
        return even(subject.pseudonym.encode(), b" ")
    if action is Action.EMPTY:
        return b""
    if not raw.strip(b" \0"):
        return b"" if vr in (*_DUMMIES, "UI") else bytes(len(raw))
    parts = raw.split(b"\\")
    if action is Action.UID or (action is Action.DUMMY and vr == "UI"):
        uids = [part.decode("ascii", "replace").strip(" \0") for part in parts]
        return even("\\".join(identity.new_uid(uid) if uid else "" for uid in uids).encode(), b"\0")
    if action is Action.DATE:
        return even(b"\\".join(moved_date(part, vr, subject.shift_days) for part in parts), b" ")
    if action is Action.AGE:
        return even(b"\\".join(capped_age(part) for part in parts), b" ")
    assert action is Action.DUMMY
    return _DUMMIES.get(vr, bytes(len(raw)))


def can_be(vr: str, raw: bytes) -> bool:
    """Tell whether a value keeps to its VR's repertoire, as wide as scanners write it."""
    pattern = {
        "CS": rb"[\x20-\x5b\x5d-\x7e\0]{0,64}(\\[\x20-\x5b\x5d-\x7e\0]{0,64})*",
        "DS": rb"[-+0-9eE. \\\0]*",
        "IS": rb"[-+0-9 \\\0]*",
        "TM": rb"[0-9:. \\\0]*",
    }.get(vr)
    return pattern is None or re.fullmatch(pattern, raw) is not None


def moved_date(text: bytes, vr: str, days: int) -> bytes:
    """Move a DA or DT value by whole days, as precisely as it was; what is no date becomes empty."""
    value = text.decode("latin-1").strip(" \0")
    pattern = r"(?P<date>\d{4}\.?\d{2}\.?\d{2})(?P<rest>)"
    if vr == "DT":
        pattern = r"(?P<date>\d{4}(\d{2}){0,2})(?P<rest>(?<=\d{8})(\d\d){0,2}|(?<=\d{8})\d{6}(\.\d{1,6})?|)"
        pattern += r"(?P<zone>[+-]\d{4})?"
    match = re.fullmatch(pattern, value, re.ASCII)
    if match is None:
        return b""
    digits = match["date"].replace(".", "")
    try:
        whole = dt.date(int(digits[:4]), int(digits[4:6] or 1), int(digits[6:] or 1))
        moved = whole + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return b""
    zone = (match["zone"] or "") if vr == "DT" else ""
    return (moved.isoformat().replace("-", "")[: len(digits)] + match["rest"] + zone).encode()


def capped_age(text: bytes) -> bytes:
    """Say how old somebody may be told to be."""
    value = text.strip(b" \0")
    if not re.fullmatch(rb"\d{3}[DWMY]", value):
        return b""
    return b"090Y" if value > b"089Y" and value.endswith(b"Y") else value


def even(value: bytes, filler: bytes) -> bytes:
    """Pad a value to even length."""
    return value + filler * (len(value) % 2)


def name_of(place: Place) -> str:
    """Say where an element stands."""
    return "/".join(f"{step:08X}" if index % 2 == 0 else str(step) for index, step in enumerate(place))


def differences(
    source: bytes,
    export: bytes,
    *,
    profile: Profile = DEFAULT_PROFILE,
    identity: Identity = IDENTITY,
    subject: Subject = SUBJECT,
    by_pydicom: bool = False,
) -> list[str]:
    """List the places at which an export does not say what it has to; empty if it does at all of them.

    With `by_pydicom` padding is not compared: pydicom wrote the whole data set anew.
    """
    expected = expected_values(read(source), profile, identity, subject)
    found = {place: value for place, value in values(read(export)).items() if place[0] not in STAMPED_TAGS}
    wrong = [f"{name_of(place)} is missing" for place in expected.keys() - found.keys()]
    wrong += [f"{name_of(place)} is too much" for place in found.keys() - expected.keys()]
    for place in expected.keys() & found.keys():
        one, other = expected[place].raw, found[place].raw
        if by_pydicom:
            one, other = one.rstrip(b" \0"), other.rstrip(b" \0")
        if one != other:
            wrong.append(f"{name_of(place)} {expected[place].vr} is not what it has to be")
    return sorted(wrong)


class Form(NamedTuple):
    """How an element is written: tag and VR code, whether its length is undefined; at the top level also every byte."""

    code: bytes
    undefined: bool
    whole: bytes


def forms(content: bytes) -> dict[Place, Form]:
    """List how every element and item of a file is written; an item's place ends with its number."""
    start = read_start(content)
    elements = list(walk(content, start.offset, explicit=start.explicit))
    found: dict[Place, Form] = {}
    sequences: list[int] = []
    items: list[int] = []
    for index, element in enumerate(elements):
        if element.tag in (ITEM_END, SEQUENCE_END):
            continue
        is_item = element.tag == ITEM
        del sequences[element.depth + is_item :], items[element.depth + is_item :]
        if is_item:
            items[-1] += 1
        place: Place = tuple(step for pair in zip(sequences, items, strict=True) for step in pair)
        if not is_item:
            place = (*place, element.tag)
        whole = b""
        if element.depth == 0 and not is_item:
            following = (
                other.start for other in elements[index + 1 :] if other.depth == 0 and other.tag not in MARKERS
            )
            whole = content[element.start : next(following, len(content))]
        code = content[element.start : element.start + (6 if element.explicit and element.vr else 4)]
        found[place] = Form(code, element.end == UNDEFINED, whole)
        if element.vr == "SQ":
            sequences.append(element.tag)
            items.append(-1)
    return found


def form_faults(source: bytes, export: bytes) -> list[str]:
    """List what is wrong with how an export is written, its source being one the walker reads.

    Every element keeps its tag, VR and kind of length; a kept one at the top level keeps every byte; pydicom and the
    walker agree on the whole file; nothing lies outside what holds it.
    """
    wrong = [f"pydicom and the walker differ: {compare(export)}"] if compare(export) else []
    start = read_start(export)
    elements = list(walk(export, start.offset, explicit=start.explicit))
    wrong += [spans(elements, len(export))] if spans(elements, len(export)) else []
    old, new = forms(source), forms(export)
    # Whether a sequence was kept in every part is known from the values.
    before, after = _by_top(values(read(source))), _by_top(values(read(export)))
    for place, form in new.items():
        if place[0] in STAMPED_TAGS:
            continue
        if place not in old:
            wrong.append(f"{name_of(place)} is new")
        elif form.code != old[place].code:
            wrong.append(f"{name_of(place)} is written with another VR")
        elif after[place[0]].get(place) == Value("SQ", b"0"):
            continue  # one that has to be there and may hold nothing is written with length zero, whatever it had
        elif form.undefined != old[place].undefined:
            wrong.append(f"{name_of(place)} is written with another kind of length")
        elif len(place) == 1 and form.whole != old[place].whole and before[place[0]] == after[place[0]]:
            wrong.append(f"{name_of(place)} is kept, yet not to the byte")
    return wrong


def _by_top(found: dict[Place, Value]) -> dict[int, dict[Place, Value]]:
    groups: dict[int, dict[Place, Value]] = {}
    for place, value in found.items():
        groups.setdefault(place[0], {})[place] = value
    return groups
