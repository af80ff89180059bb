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

from tasks.deidentify import structured
from tasks.deidentify.codes import Code, is_published, says_the_schemes_words
from tasks.deidentify.descriptors import clean_value, mask_known
from tasks.deidentify.ge import clean_protocol_block, clean_raw_data_header
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.private import PrivateAction, PrivateRule, load_private_table
from tasks.deidentify.profile import (
    DEFAULT_PROFILE,
    STAMPED_TAGS,
    Action,
    Option,
    Profile,
    Rules,
    Surroundings,
    load_decisions,
)
from tasks.deidentify.siemens import clean_csa, clean_protocol
from tasks.deidentify.structured import ContentItem, Treatment
from tasks.deidentify.terms import is_term, is_word_of_terms
from tasks.dicom.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, walk
from tasks.dicom.syntax import read_start
from tasks.dicom.text import decode_text
from tests.dicom.oracle import CHOICES, compare, spans

SUBJECT = Subject(pseudonym="SUB-0001", shift_days=-1000)
IDENTITY = Identity(bytes(range(32)))

Place = tuple[int, ...]
"""Tags and zero-based item numbers, alternating, that lead to an element."""

TOLD = STAMPED_TAGS | {0x00280301, 0x00280302}
"""What the rewriter may write at the top level: that, and how, the file was de-identified, and what its pixels show."""

MARKERS = (ITEM, ITEM_END, SEQUENCE_END)

_WORD_SIZES = {"AT": 2, "OW": 2, "SS": 2, "US": 2, "FL": 4, "OF": 4, "OL": 4, "SL": 4, "UL": 4}
_WORD_SIZES |= {"FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8}

_DUMMY_TEXT_VRS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
_DUMMIES = {"DA": b"19000101", "DT": b"19000101000000", "TM": b"000000", "IS": b"0 ", "DS": b"0 ", "AS": b"000Y"}
_DUMMIES |= dict.fromkeys(_DUMMY_TEXT_VRS, b"REMOVED ")


NOTHING: frozenset[str] = frozenset()

_DESCRIPTIVE = ("LO", "LT", "SH", "ST", "UC", "UT")
_WORDY = (*_DESCRIPTIVE, "AE", "PN", "UN", "UR")
_BINARY_NUMBERS = ("AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV")

_HOLDERS = {
    0x0040A120: "DATETIME",
    0x0040A121: "DATE",
    0x0040A122: "TIME",
    0x0040A123: "PNAME",
    0x0040A124: "UIDREF",
    0x0040A160: "TEXT",
    0x0040A161: "NUM",
    0x0040A162: "NUM",
    0x0040A168: "CODE",
    0x0040A300: "NUM",
    0x0040A30A: "NUM",
    0x00700006: "TEXT",
}
"""The value type that each attribute of a content item is the value of (PS3.3 table C.18.1-1 and the like)."""
_VALUE_TYPES = {"CODE", "COMPOSITE", "CONTAINER", "DATE", "DATETIME", "IMAGE", "NUM", "PNAME", "SCOORD", "SCOORD3D"}
_VALUE_TYPES |= {"TCOORD", "TEXT", "TIME", "UIDREF", "WAVEFORM"}
_RELATIONSHIPS = {"CONTAINS", "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS PROPERTIES"}
_RELATIONSHIPS |= {"INFERRED FROM", "SELECTED FROM"}


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


class By(NamedTuple):
    """By what a file is de-identified."""

    profile: Profile = DEFAULT_PROFILE
    identity: Identity = IDENTITY
    subject: Subject = SUBJECT
    known: frozenset[str] = NOTHING


def expected_values(dataset: Dataset, by: By) -> dict[Place, Value]:
    """Say what the export of a data set that was just read has to hold, stamps apart."""
    source = values(dataset)
    sop_class = source[0x00080016,].raw.decode("ascii").rstrip("\0 ")
    if _stated(source, 0x00120062) == "YES" and _stated(source, 0x00280303) == "MODIFIED":
        # Dates that were moved before stay, if they would be moved now.
        by = by._replace(subject=replace(by.subject, shift_days=0))
    return dict(_expect(source, source, (), by.profile.actions(sop_class), by))


def _stated(source: dict[Place, Value], tag: int) -> str:
    return source.get((tag,), Value("", b"")).raw.decode("ascii", "replace").strip(" \0").upper()


def text_at(whole: dict[Place, Value], here: Place) -> str:
    """Decode a text by the character set of its item, or of the nearest one around it that states one."""
    for end in range(len(here) - 1, -1, -2):
        stated = whole.get((*here[:end], 0x00080005))
        if stated is not None and stated.vr != "SQ":
            character_set = stated.raw.decode("ascii", "replace").strip(" \0")
            return decode_text(whole[here].raw, character_set)
    return decode_text(whole[here].raw)


def _expect_private(
    whole: dict[Place, Value], source: dict[Place, Value], here: Place, rules: Rules, by: By
) -> Iterator[tuple[Place, Value]]:
    """Say what becomes of a private element: what the table lists, by the creator of its block."""
    old, tag, table = source[here], here[-1], load_private_table()
    group, number = tag >> 16, tag & 0xFFFF
    if Option.RETAIN_SAFE_PRIVATE not in by.profile.options or rules._surroundings is Surroundings.DUMMY:
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
                yield from _expect(whole, inside, (*here, item), rules.nested(tag), by)
    elif old.vr == "SQ":
        return
    elif rule.action is PrivateAction.KEEP:
        if rule.admits(old.raw, old.vr):
            text = text_at(whole, here)
            if rule.vr in (*_DESCRIPTIVE, "AE", "CS", "PN", "UR") and mask_known(text, by.known) != text:
                old = Value(old.vr, mask_known(old.raw.decode("latin-1"), by.known).encode("latin-1"))
            yield here, old
    elif rule.action in (PrivateAction.UID, PrivateAction.DATE):
        action = Action.UID if rule.action is PrivateAction.UID else Action.DATE
        yield here, Value(old.vr, expected_value(whole, here, action, by, listed=True))
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
    whole: dict[Place, Value],
    source: dict[Place, Value],
    place: Place,
    rules: Rules,
    by: By,
) -> Iterator[tuple[Place, Value]]:
    depth = len(place) + 1
    for here, old in source.items():
        if len(here) != depth or here[:-1] != place:
            continue
        tag = here[-1]
        if depth == 1 and tag in TOLD:
            continue
        if tag >> 16 & 1:
            yield from _expect_private(whole, source, here, rules, by)
            continue
        action = rules.action(tag, old.vr)
        if old.vr == "SQ":
            if action is Action.EMPTY or (action is Action.KEEP and tag in rules.by_tag):
                yield here, Value("SQ", b"0")
            elif action is Action.CLEAN_SEQUENCE:
                inside = {
                    there: value for there, value in source.items() if there[:depth] == here and len(there) > depth
                }
                yield from _expect_items(whole, inside, here, rules.nested(tag), by)
        elif action not in (Action.REMOVE, Action.CLEAN_SEQUENCE):
            listed = tag in rules.by_tag
            yield here, Value(old.vr, expected_value(whole, here, action, by, listed=listed))


def _expect_items(
    whole: dict[Place, Value], inside: dict[Place, Value], here: Place, rules: Rules, by: By
) -> Iterator[tuple[Place, Value]]:
    """Say what becomes of a sequence and its items; those behind one that goes move up."""
    stays: list[tuple[Place, Value]] = []
    count = 0
    for number in range(int(whole[here].raw)):
        item = (*here, number)
        judged = _rules_of_item(inside, item, rules, by)
        if judged is None:
            continue
        for there, value in _expect(whole, inside, item, judged, by):
            stays.append(((*here, count, *there[len(item) :]), value))
        count += 1
    yield here, Value("SQ", str(count).encode())
    yield from stays


def _rules_of_item(source: dict[Place, Value], item: Place, rules: Rules, by: By) -> Rules | None:
    """Say by which rules one item is cleaned: a code and a content item are judged by what they say, others are not."""

    def is_known(text: str) -> bool:
        return mask_known(text, by.known) != text

    if rules._surroundings is Surroundings.CONTENT:
        treatment = structured.judge(
            content_item(source, item),
            {option.column for option in by.profile.options},
            is_known=is_known,
            is_annotation=item[-2] == 0x0040B020,
        )
        if treatment is Treatment.REMOVE:
            return None
        return rules._as(
            {
                Treatment.CLEAN: Surroundings.CLEANED_CONTENT,
                Treatment.KEEP: Surroundings.KEPT_CONTENT,
                Treatment.DUMMY: Surroundings.DUMMY_CONTENT,
            }[treatment]
        )
    if rules._surroundings not in (Surroundings.CODE, Surroundings.CONTENT_CODE):
        return rules
    code = code_at(source, item)
    if any(code) and (not is_published(code) or is_known(code.value)):
        return None if rules._surroundings is Surroundings.CONTENT_CODE else rules._as(Surroundings.DUMMY)
    same = says_the_schemes_words(code)
    return rules._as(Surroundings.PUBLISHED_CODE if same else Surroundings.REWORDED_CODE)


def code_at(source: dict[Place, Value], item: Place) -> Code:
    """Read a code as its item states it."""

    def stated(*tags: int) -> str:
        values = [source[*item, tag] for tag in tags if (*item, tag) in source]
        return "\\".join(_plain(value) for value in values if value.vr != "SQ")

    return Code(
        value=stated(0x00080100, 0x00080119),
        scheme=stated(0x00080102),
        meaning=stated(0x00080104),
        version=stated(0x00080103),
        resource=stated(0x00080122),
    )


def content_item(source: dict[Place, Value], item: Place) -> ContentItem:
    """Read what decides on a content item; of one that was read with pydicom nothing can be stated twice."""
    own = {place[-1]: value for place, value in source.items() if place[:-1] == item}

    def codes(tag: int, inside: Place = item) -> list[Code]:
        return [code_at(source, one) for one in items_of(source, (*inside, tag))]

    measured = items_of(source, (*item, 0x0040A300))
    numbers: list[str] = []
    for place in (item, *measured):
        numbers += _plain(source[*place, 0x0040A30A]).split("\\") if (*place, 0x0040A30A) in source else []
        if (*place, 0x0040A161) in source:
            raw = source[*place, 0x0040A161].raw
            whole = len(raw) % 8 == 0
            numbers += [f"{number:.6f}" for (number,) in struct.iter_unpack("<d", raw)] if whole else ["NaN"]
        if (*place, 0x0040A162) in source and source[*place, 0x0040A162].raw:
            numbers.append("NaN")
    stated = _plain(own[0x0040A040]).upper() if 0x0040A040 in own else None
    held = {_HOLDERS[tag] for tag in own.keys() & _HOLDERS.keys()}
    value_type = stated if stated is not None else min(held) if len(held) == 1 else ""
    relationship = _plain(own[0x0040A010]).upper() if 0x0040A010 in own else "CONTAINS"
    nothing_said = stated is None and not held
    return ContentItem(
        value_type=value_type,
        is_sound=(value_type in _VALUE_TYPES or nothing_said)
        and held <= {value_type}
        and relationship in _RELATIONSHIPS,
        concepts=tuple(codes(0x0040A043)),
        codes=tuple(codes(0x0040A168)),
        units=(*codes(0x004008EA), *(unit for place in measured for unit in codes(0x004008EA, place))),
        numbers=tuple(numbers),
    )


def items_of(source: dict[Place, Value], sequence: Place) -> list[Place]:
    """List the items of a sequence; none of what is no sequence, or absent."""
    found = source.get(sequence)
    return [(*sequence, number) for number in range(int(found.raw))] if found is not None and found.vr == "SQ" else []


def _plain(value: Value) -> str:
    return "" if value.vr == "SQ" else value.raw.decode("ascii", "replace").strip(" \0")


def expected_value(whole: dict[Place, Value], here: Place, action: Action, by: By, *, listed: bool) -> bytes:
    """Say what becomes of one value, padding included."""
    profile, identity, subject, known_texts = by
    tag, (vr, raw) = here[-1], whole[here]
    if action is Action.KEEP:
        known = DicomDictionary[tag][0] if tag in DicomDictionary else vr
        wrong = listed and vr != "UN" and vr not in known
        meant = known if vr == "UN" else vr
        if wrong or not can_be(meant, raw):
            return b""
        if meant in _BINARY_NUMBERS and tag not in load_decisions().bulk and is_text(meant, raw):
            return b""
        if meant == "CS" and tag != 0x00080005:
            terms = [part if is_harmless_term(part, known_texts) else b"X" for part in raw.split(b"\\")]
            if terms == raw.split(b"\\"):
                return raw
            cleans = Option.CLEAN_DESCRIPTORS in profile.options and not listed and vr == "CS"
            return even(b"\\".join(terms), b" ") if cleans else b""
        text = text_at(whole, here)
        if listed or vr not in _WORDY or mask_known(text, known_texts) == text:
            return raw
        action = Action.DESCRIPTOR if Option.CLEAN_DESCRIPTORS in profile.options else Action.EMPTY
    if action is Action.PSEUDONYM:
        return even(subject.pseudonym.encode(), b" ")
    if action is Action.EMPTY:
        return b""
    if not raw.strip(b" \0"):
        return b"" if vr in (*_DUMMIES, "UI") else bytes(len(raw))
    if action is Action.DESCRIPTOR:
        meant = DicomDictionary[tag][0] if vr == "UN" else vr
        if meant not in _DESCRIPTIVE:
            return b""
        return even(
            clean_value(text_at(whole, here), meant, profile.vocabulary, known_texts).text.encode("ascii"), b" "
        )
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
        "CS": rb"[ -~\0]*",
        "DS": rb"[-+0-9eE. \\\0]*",
        "IS": rb"[-+0-9 \\\0]*",
        "TM": rb"[0-9:. \\\0]*",
    }.get(vr)
    return pattern is None or re.fullmatch(pattern, raw) is not None


def is_text(vr: str, raw: bytes) -> bool:
    """Tell whether binary numbers were put together from letters: sixteen in a row, or a number beyond measure."""
    if re.search(rb"[ -~]{16}", raw):
        return True
    wholes = [raw[at : at + 8] for at in range(0, len(raw) // 8 * 8, 8)] if vr == "FD" else []
    return any(
        re.fullmatch(rb"[ -~]{8}", eight) and not 1e-30 < abs(struct.unpack("<d", eight)[0]) < 1e30 for eight in wholes
    )


def is_harmless_term(raw: bytes, known_texts: frozenset[str]) -> bool:
    """Tell whether one value of a coded string can be a term, and none of its words is the patient's."""
    text = raw.decode("ascii").strip(" \0")
    words = {word.casefold() for word in re.findall(r"[^\W_]+", text)}
    single = {known.casefold() for known in known_texts if len(known) > 3 and re.fullmatch(r"[^\W_]+", known)}
    return is_term(text) and not any(word in single and not is_word_of_terms(word) for word in words)


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
    known: frozenset[str] = NOTHING,
    by_pydicom: bool = False,
) -> list[str]:
    """List the places at which an export does not say what it has to; empty if it does at all of them.

    With `by_pydicom` padding is not compared: pydicom wrote the whole data set anew.
    """
    expected = expected_values(read(source), By(profile, identity, subject, known))
    found = {place: value for place, value in values(read(export)).items() if place[0] not in TOLD}
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
        if place[0] in TOLD or any(
            before[place[0]].get(place[:end]) != after[place[0]].get(place[:end]) for end in range(1, len(place), 2)
        ):
            continue  # behind an item that went, others stand at its place
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
