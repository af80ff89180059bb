"""What holds of the rewriter for every data set that can be thought of."""

from __future__ import annotations

import datetime as dt
import random
import re
import struct
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.uid import UID_dictionary

from tasks.deidentify.identity import Identity
from tasks.deidentify.private import load_private_table
from tasks.deidentify.profile import (
    DEFAULT_PROFILE,
    STAMPED_TAGS,
    Action,
    Option,
    Profile,
    Rules,
)
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


# ---- what is judged item by item

CODES = (
    ("12738006", "SCT", "Brain"),
    ("T-A0100", "SRT", "Brain"),
    ("121071", "DCM", "Finding"),
    ("121106", "DCM", "Comment"),
    ("121033", "DCM", "Subject Age"),
    ("121031", "DCM", "Subject Birth Date"),
    ("110180", "DCM", "Study Instance UID"),
    ("113723", "DCM", "Calibration DateTime"),
    ("410668003", "SCT", "Length"),
    ("mm", "UCUM", "mm"),
    ("a", "UCUM", "year"),
    ("12738006", "SCT", "brain of Jane Doe"),
    ("12738007", "SCT", "Brain"),
    ("DOE^JANE", "99LOCAL", "Jane Doe"),
    ("", "", ""),
)
"""Published codes, some in other words, and what are none."""

CODE_SEQUENCES = (0x00082218, 0x00082220, 0x00089215, 0x0040A170, 0x00540410, 0x00321064)
CONTENT_SEQUENCES = (0x0040A730, 0x00400555, 0x0040B020, 0x00400440)
TERMS = (b"ORIGINAL", b"M_FFE", b"", b"DOE^JANE", b"Jane", b"19580412", b"BRAIN", b"SE", b"x" * 65)
VALUE_TYPES = ("TEXT", "NUM", "CONTAINER", "IMAGE", "", "DOE^JANE")
KNOWN = (frozenset[str](), frozenset({"Jane", "Doe"}), frozenset({"12738006", "Brain", "Jane"}))
OPTIONS = (
    DEFAULT_PROFILE.options,
    DEFAULT_PROFILE.options - {Option.CLEAN_DESCRIPTORS},
    frozenset({Option.CLEAN_STRUCTURED_CONTENT}),
    DEFAULT_PROFILE.options | {Option.CLEAN_STRUCTURED_CONTENT, Option.CLEAN_GRAPHICS},
    frozenset(Option) - {Option.RETAIN_LONGITUDINAL_MODIFIED_DATES},
    frozenset(Option) - {Option.RETAIN_LONGITUDINAL_FULL_DATES},
)


@st.composite
def code_items(draw: st.DrawFn) -> list[Node]:
    """Make the item of a code sequence: a code whole or in part, and now and then something more."""
    value, scheme, meaning = draw(st.sampled_from(CODES))
    nodes: list[Node] = [text(0x00080100, "SH", value), text(0x00080102, "SH", scheme)]
    nodes += [text(0x00080104, "LO", meaning)] if draw(st.booleans()) else []
    more = (
        text(0x00080103, "SH", "1.1"),
        text(0x00080103, "SH", "20200229"),
        text(0x00080119, "UC", "a long code of Jane Doe"),
        text(0x00080122, "LO", "DICOM Content Mapping Resource"),
        text(0x00080117, "UI", INSTANCE_UID),
        text(0x00100010, "PN", "Doe^Jane"),
    )
    nodes += draw(st.lists(st.sampled_from(more), max_size=1))
    return nodes


def codes(tag: int) -> st.SearchStrategy[Nested]:
    """Make a code sequence."""
    return strategies.nested(tag, code_items())


def one_code(tag: int, *among: tuple[str, str, str]) -> st.SearchStrategy[Nested]:
    """Make a code sequence as it should be: of one code, published and in its scheme's words."""
    sequences = (
        Nested(
            tag=tag,
            items=((text(0x00080100, "SH", value), text(0x00080102, "SH", scheme), text(0x00080104, "LO", meaning)),),
        )
        for value, scheme, meaning in among
    )
    return st.sampled_from(tuple(sequences))


@st.composite
def content_items(draw: st.DrawFn, *, depth: int = 1) -> list[Node]:
    """Make a content item: its type, its concept, a value, items inside; every other one has some fault."""
    numbers = (
        text(0x0040A30A, "DS", draw(st.sampled_from(("45", "93", "1\\200", "x")))),
        Leaf(tag=0x0040A161, vr="FD", value=struct.pack("<d", draw(st.sampled_from((10.0, 95.0))))),
    )
    units = st.one_of(one_code(0x004008EA, ("mm", "UCUM", "mm"), ("a", "UCUM", "year")), codes(0x004008EA))
    measured = draw(strategies.nested(0x0040A300, st.tuples(units, st.sampled_from(numbers)).map(list)))
    by_type: dict[str, Node] = {
        "TEXT": text(0x0040A160, "UT", "brain of Jane Doe"),
        "PNAME": text(0x0040A123, "PN", "Doe^Jane"),
        "DATE": text(0x0040A121, "DA", "20200229"),
        "DATETIME": text(0x0040A120, "DT", "20200229101112"),
        "UIDREF": text(0x0040A124, "UI", INSTANCE_UID),
        "NUM": draw(st.sampled_from((measured, measured, *numbers))),
        "CODE": draw(st.one_of(one_code(0x0040A168, *CODES[:3]), codes(0x0040A168))),
    }
    value_type = draw(st.sampled_from(sorted(by_type)))
    nodes = {node.tag: node for node in (by_type[value_type], draw(one_code(0x0040A043, *CODES[:9])))}
    if draw(st.booleans()):
        nodes[0x0040A040] = text(0x0040A040, "CS", value_type)
    if draw(st.booleans()):
        nodes[0x0040A010] = text(0x0040A010, "CS", "CONTAINS")
    faults = (
        by_type[draw(st.sampled_from(sorted(by_type)))],
        text(0x0040A040, "CS", draw(st.sampled_from(VALUE_TYPES))),
        text(0x0040A010, "CS", "DOE^JANE"),
        draw(codes(0x0040A043)),
    )
    nodes |= {node.tag: node for node in draw(st.lists(st.sampled_from(faults), max_size=1))}
    if draw(st.integers(0, 4)) == 0:
        del nodes[0x0040A043]  # which an annotation may go without
    if depth and draw(st.booleans()):
        nodes[0x0040A730] = draw(strategies.nested(0x0040A730, content_items(depth=depth - 1)))
    return [nodes[tag] for tag in sorted(nodes)]


@st.composite
def judged_elements(draw: st.DrawFn) -> list[Node]:
    """Make what is judged by what it says: coded strings, codes, content items."""
    terms = st.lists(st.sampled_from(TERMS), max_size=3).map(b"\\".join)
    nodes: list[Node] = [text(tag, "CS", draw(terms)) for tag in (0x00180020, 0x00100040) if draw(st.booleans())]
    nodes += [draw(codes(tag)) for tag in draw(st.lists(st.sampled_from(CODE_SEQUENCES), max_size=2, unique=True))]
    for tag in draw(st.lists(st.sampled_from(CONTENT_SEQUENCES), max_size=2, unique=True)):
        nodes.append(draw(strategies.nested(tag, content_items())))
    return nodes


@given(
    judged_elements(),
    st.booleans(),
    st.sampled_from([MR_IMAGE, ENHANCED_MR]),
    st.sampled_from(OPTIONS),
    st.sampled_from(KNOWN),
)
def test_terms_codes_and_content_items_are_judged_one_by_one(
    nodes: list[Node], explicit: bool, sop_class: str, options: frozenset[Option], known: frozenset[str]
) -> None:
    """Whatever is chosen: each stays, is cleaned or goes by itself, and lengths are right around those that go."""
    profile = Profile(options=options)
    source = image(*nodes, text(0x00080016, "UI", sop_class), explicit=explicit)
    export = rewrite(source, profile=profile, identity=IDENTITY, subject=SUBJECT, known=known).content
    assert differences(source, export, profile=profile, known=known) == []
    assert form_faults(source, export) == []


@given(judged_elements(), st.booleans())
def test_a_second_pass_judges_no_other_way(nodes: list[Node], explicit: bool) -> None:
    """A dummy for a code is no code, what is masked stays masked, and items that stayed stay."""
    profile = Profile(options=OPTIONS[3])
    first = rewrite(image(*nodes, explicit=explicit), profile=profile, identity=IDENTITY, subject=SUBJECT).content
    assert rewrite(first, profile=profile, identity=IDENTITY, subject=SUBJECT).content == first


# ---- twice


@given(strategies.image_elements(), st.booleans())
def test_a_second_pass_changes_nothing(nodes: list[Node], explicit: bool) -> None:
    """With the same secret and dates that are moved: to the byte."""
    first = made(image(*nodes, explicit=explicit))
    assert made(first) == first


@given(strategies.image_elements(), st.booleans())
def test_a_second_pass_with_another_secret_changes_uids_and_nothing_else(nodes: list[Node], explicit: bool) -> None:
    """So a second pass by somebody else loses no acquisition parameter, and does not bring anything back."""
    first = made(image(*nodes, explicit=explicit))
    stranger = Identity(b"another secret of some length...")
    second = rewrite(first, profile=DEFAULT_PROFILE, identity=stranger, subject=SUBJECT).content
    assert differences(first, second, identity=stranger) == []
    assert form_faults(first, second) == []
    one, other = found(first), found(second)
    assert one.keys() == other.keys()
    for place, value in one.items():
        meant = DicomDictionary[place[-1]][0] if place[-1] in DicomDictionary else value.vr
        if place[0] in STAMPED_TAGS or "UI" not in (value.vr, meant):
            assert other[place] == value, name_of(place)
        elif value.vr == meant == "UI":
            assert parts(other[place]) == [
                stranger.new_uid(uid.decode()).encode() if uid else b"" for uid in parts(value)
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
    # Of the blocks of creators whom the table knows some elements stay, so they are left as they are.
    reserved = load_private_table().reserved
    groups = {
        node.tag >> 16
        for node in nodes
        if isinstance(node, Leaf) and (node.value.decode("latin-1").strip(" \0"), node.tag >> 16) in reserved
    }
    for node in nodes:
        tag = node.tag
        if tag >> 16 in groups:
            changed.append(node)
            continue
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
