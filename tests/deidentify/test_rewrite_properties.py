"""What holds of the rewriter for every data set that can be thought of."""

from __future__ import annotations

import datetime as dt
import random
import re
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.uid import UID_dictionary

from tasks.deidentify.profile import DEFAULT_PROFILE, STAMPED_TAGS, Action, Rules
from tasks.deidentify.rewrite import RefusalError, rewrite
from tests import strategies
from tests.deidentify.images import INSTANCE_UID, MR_IMAGE, image, text
from tests.deidentify.oracle import (
    IDENTITY,
    SUBJECT,
    Place,
    Value,
    differences,
    form_faults,
    name_of,
    read,
    values,
)
from tests.dicom.encoder import Leaf, Nested, Node
from tests.dicom.mutator import mutate

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
PET = "1.2.840.10008.5.1.4.1.1.128"

DUMMIES = (b"19000101", b"19000101000000")
"""What stands for a date that must not be empty."""

RULES = DEFAULT_PROFILE.actions(MR_IMAGE)


def made(source: bytes) -> bytes:
    return rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT).content


def found(content: bytes) -> dict[Place, Value]:
    return values(read(content))


def parts(value: Value) -> list[bytes]:
    return [part.strip(b" \0") for part in value.raw.split(b"\\")]


# ---- every element is what the profile says, and is written as it was


@settings(max_examples=150)
@given(strategies.image_elements(), st.booleans(), st.sampled_from([MR_IMAGE, ENHANCED_MR]))
def test_the_export_reads_and_says_what_the_profile_says(nodes: list[Node], explicit: bool, sop_class: str) -> None:
    """At every place, nested too; nothing is missing, nothing is too much, what is kept is kept to the byte."""
    source = image(*nodes, text(0x00080016, "UI", sop_class), explicit=explicit)
    export = made(source)
    assert differences(source, export) == []
    assert form_faults(source, export) == []


# ---- twice


@given(strategies.image_elements(), st.booleans())
def test_a_second_pass_moves_dates_and_uids_once_more_and_changes_nothing_else(
    nodes: list[Node], explicit: bool
) -> None:
    """The same places, each written in the same form; all values the same but those that are UI, DA or DT by VR or tag.

    Of these each is the first pass applied again: new UIDs for the new ones, dates moved by the same days once more.
    So a second pass by accident loses no acquisition parameter, and does not bring anything back.
    """
    first = made(image(*nodes, explicit=explicit))
    second = made(first)
    assert differences(first, second) == []
    assert form_faults(first, second) == []
    one, other = found(first), found(second)
    assert one.keys() == other.keys()
    for place, value in one.items():
        meant = DicomDictionary[place[-1]][0] if place[-1] in DicomDictionary else value.vr
        if place[0] in STAMPED_TAGS or not {"UI", "DA", "DT"} & {value.vr, meant}:
            assert other[place] == value, name_of(place)
        elif value.vr == meant == "UI":
            assert parts(other[place]) == [
                IDENTITY.new_uid(uid.decode()).encode() if uid else b"" for uid in parts(value)
            ], name_of(place)


# ---- UIDs


@given(strategies.image_elements(posing=False), st.booleans())
def test_equal_uids_stay_equal_different_ones_different_and_the_standards_own_the_same(
    nodes: list[Node], explicit: bool
) -> None:
    """Over all places of an image, the file meta information, and all images of a subject."""
    source = image(*nodes, text(0x00200052, "UI", INSTANCE_UID), explicit=explicit)
    export = made(source)
    old, new = found(source), found(export)
    stands_for: dict[bytes, bytes] = {}
    for place, value in new.items():
        if place[0] in STAMPED_TAGS or value.vr != "UI" or not value.raw:
            continue
        for was, now in zip(parts(old[place]), parts(value), strict=True):
            assert stands_for.setdefault(was, now) == now, name_of(place)
    assert len(set(stands_for.values())) == len(stands_for)
    for was, now in stands_for.items():
        if was.decode("ascii", "replace") in UID_dictionary or not was:
            assert was == now
        else:
            assert re.fullmatch(rb"2\.25\.[1-9]\d{0,38}", now)
    meta = read(export).file_meta
    assert stands_for[INSTANCE_UID.encode()] == meta.MediaStorageSOPInstanceUID.encode()


# ---- dates and times


def _day(raw: bytes) -> dt.date:
    digits = raw.replace(b".", b"", 2) if raw[4:5] == b"." else raw
    return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))


@given(strategies.image_elements(posing=False), st.booleans())
def test_days_between_dates_and_all_times_are_kept(nodes: list[Node], explicit: bool) -> None:
    """A date in the export is the source's, moved by the subject's days; empty if it was none; else a dummy."""
    source = image(*nodes, explicit=explicit)
    old, new = found(source), found(made(source))
    for place, value in new.items():
        if value.vr in ("DA", "DT") and value.raw and value.raw not in DUMMIES:
            for was, now in zip(parts(old[place]), parts(value), strict=True):
                if re.match(rb"\d{8}", now):
                    assert _day(now) - _day(was) == dt.timedelta(days=SUBJECT.shift_days), name_of(place)
                    assert now[8:] == (was.replace(b".", b"", 2) if was[4:5] == b"." else was)[8:], name_of(place)
        elif value.vr == "TM" and value.raw and place[0] not in STAMPED_TAGS:
            assert value.raw in (old[place].raw, b"000000"), name_of(place)


# ---- what goes leaves no trace


def _scrambled(nodes: Sequence[Node], rules: Rules, chance: random.Random, *, top: bool) -> list[Node]:
    """Put something else into everything that is removed, emptied or replaced by the pseudonym."""
    changed: list[Node] = []
    for node in nodes:
        tag = node.tag
        known = DicomDictionary[tag][0] if tag in DicomDictionary else "UN"
        vr = "SQ" if isinstance(node, Nested) else known
        action = Action.REMOVE if top and tag in STAMPED_TAGS else rules.action(tag, vr)
        if isinstance(node, Nested):
            if action is Action.CLEAN_SEQUENCE:
                items = tuple(tuple(_scrambled(item, rules.nested(tag), chance, top=False)) for item in node.items)
            elif tag >> 16 & 1:
                items = node.items  # a private one has to hold an item, or an implicit stream does not tell what it is
            else:
                items = ((),) * chance.randrange(3)
            changed.append(
                Nested(
                    tag=tag,
                    items=items,
                    undefined=node.undefined,
                    items_undefined=node.items_undefined,
                    unknown=node.unknown,
                )
            )
        elif action in (Action.REMOVE, Action.EMPTY, Action.PSEUDONYM) and isinstance(node, Leaf):
            secret = chance.randbytes(2 * chance.randrange(20))
            if tag >> 16 & 1 and tag & 0xFFFF <= 0xFF:
                secret = node.value  # a private creator says how to read what follows in an implicit stream
            changed.append(Leaf(tag=tag, vr=node.vr, value=secret, written=node.written))
        else:
            changed.append(node)
    return changed


@given(strategies.image_elements(posing=False), st.booleans(), st.integers(0, 2**32))
def test_nothing_of_what_goes_can_be_told_from_the_export(nodes: list[Node], explicit: bool, seed: int) -> None:
    """Two images that differ only in what is removed, emptied or renamed have the same export, to the byte."""
    more = [*nodes, text(0x00100010, "PN", "Synthetic^Person"), text(0x00081030, "LO", "a description")]
    other = _scrambled(more, RULES, random.Random(seed), top=True)
    assert made(image(*other, explicit=explicit)) == made(image(*more, explicit=explicit))


@given(strategies.image_elements(), st.booleans(), st.data())
def test_what_stands_beside_an_element_does_not_matter_to_it(
    nodes: list[Node], explicit: bool, data: st.DataObject
) -> None:
    """Taking one element out of the source takes it out of the export and changes nothing else."""
    whole = found(made(image(*nodes, explicit=explicit)))
    if not nodes:
        return
    out = data.draw(
        st.sampled_from([node.tag for node in nodes if not node.tag >> 16 & 1 or node.tag & 0xFFFF > 0xFF] or [0])
    )
    less = found(made(image(*(node for node in nodes if node.tag != out), explicit=explicit)))
    base = found(made(image(explicit=explicit)))
    expected = {place: value for place, value in whole.items() if place[0] != out}
    assert less == expected | {place: value for place, value in base.items() if place[0] == out}


# ---- damage


def test_a_damaged_file_is_refused_or_rewritten_and_nothing_else_happens() -> None:
    """Bits flipped, lengths changed, pieces cut, repeated and mixed up."""
    nodes = [
        Nested(tag=0x00189346, items=((text(0x00080080, "LO", "x"), text(0x00180050, "DS", "1")), ()), undefined=True),
        Nested(tag=0x00400440, items=((text(0x00080018, "UI", "1.2.3"),),), items_undefined=True),
        text(0x00090010, "LO", "GEMS_IDEN_01"),
        text(0x00091001, "LO", "private"),
    ]
    seeds = {f"explicit {explicit}": image(*nodes, explicit=explicit) for explicit in (True, False)}
    exported = 0
    for number in range(2000):
        what, source = mutate(seeds, number)
        try:
            export = made(source)
        except RefusalError:
            continue
        exported += 1
        assert export[:132] == bytes(128) + b"DICM", what
        assert b"Synthetic" not in export, what
    assert 300 < exported < 1700
