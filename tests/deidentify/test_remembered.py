"""What is remembered from file to file makes the rewriter fast, and changes nothing it writes."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from tasks.deidentify import rewrite as rewriting
from tasks.deidentify import siemens
from tasks.deidentify.harvest import harvest
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.profile import DEFAULT_PROFILE, Option, Profile
from tasks.deidentify.rewrite import RefusalError, rewrite
from tests.builders.world import make_instance, write_instance
from tests.deidentify.images import image, nested, text
from tests.dicom.encoder import Leaf

SERIES = (
    "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0004",
    "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot",
    "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
)
PROFILES = (
    DEFAULT_PROFILE,
    Profile(options=frozenset()),
    Profile(options=frozenset(Option) - {Option.RETAIN_LONGITUDINAL_MODIFIED_DATES}),
)
SUBJECTS = (Subject(pseudonym="SUB-0001", shift_days=-777), Subject(pseudonym="SUB-0002", shift_days=-1200))
IDENTITIES = (Identity(bytes(32)), Identity(bytes(range(32))))


def forget() -> None:
    """Be as a process that has just begun."""
    rewriting._remembered.clear()
    siemens._known_tags.clear()
    siemens._last_headers.clear()
    siemens._remembered_csa.cache_clear()


def jobs_of(folder: Path) -> list[tuple[bytes, dict]]:
    files = [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]
    images = [content for content in files if content[128:132] == b"DICM"][:3]
    known = (frozenset(), harvest(images[0]).identifiers, frozenset({"AX", "Brain", "CORONAL", "EPI", "FAST"}))
    return [
        (content, {"profile": profile, "identity": identity, "subject": subject, "known": words})
        for content in images
        for profile in PROFILES
        for identity, subject, words in zip((*IDENTITIES, IDENTITIES[0]), (*SUBJECTS, SUBJECTS[1]), known, strict=True)
    ]


def outcome(content: bytes, how: dict) -> object:
    try:
        made = rewrite(content, **how)
    except RefusalError as refusal:
        return refusal.reason
    return made.content, made.sop_instance_uid, made.codes, dict(made.tally)


@pytest.mark.parametrize("series", SERIES)
def test_what_is_remembered_changes_nothing(series: str, scanner_data: Path) -> None:
    """In whatever order files, patients and profiles come, each export is the one that a fresh process makes."""
    jobs = jobs_of(scanner_data / series)
    alone = []
    for job in jobs:
        forget()
        alone.append(outcome(*job))
    assert len({repr(one) for one in alone}) > len(jobs) // 2, "the jobs differ"
    for seed in range(3):
        order = list(range(len(jobs)))
        random.Random(seed).shuffle(order)
        for number in order:
            assert outcome(*jobs[number]) == alone[number]


def assert_order_is_irrelevant(sources: list[bytes], known: frozenset[str] = frozenset()) -> list[object]:
    """Rewrite in three orders, twice each; return what became of each source in a process of its own."""
    how = {"profile": DEFAULT_PROFILE, "identity": IDENTITIES[0], "subject": SUBJECTS[0], "known": known}
    alone = []
    for source in sources:
        forget()
        alone.append(outcome(source, how))
    places = list(range(len(sources)))
    for order in (places, places[::-1], random.Random(0).sample(places, len(places))):
        forget()
        for place in (*order, *order):
            assert outcome(sources[place], how) == alone[place]
    return alone


def test_what_is_known_decides_though_all_else_is_the_same() -> None:
    source = image(
        text(0x00081090, "LO", "Skyra fit"),
        text(0x00190010, "LO", "SIEMENS MR HEADER"),
        text(0x00191008, "CS", "IMAGE NUM 4 "),
    )
    forget()
    how = {"profile": DEFAULT_PROFILE, "identity": IDENTITIES[0], "subject": SUBJECTS[0]}
    for known in (frozenset(), frozenset({"Skyra"}), frozenset({"IMAGE"}), frozenset()):
        content = rewrite(source, known=known, **how).content
        assert (b"Skyra" in content) == ("Skyra" not in known)
        assert (b"IMAGE NUM 4" in content) == ("IMAGE" not in known)


def test_the_studys_words_decide_though_all_else_is_the_same() -> None:
    source = image(text(0x0008103E, "LO", "t1 quuxomat"))
    forget()
    for words in ((), ("quuxomat",), ()):
        profile = Profile(options=DEFAULT_PROFILE.options, words=words)
        content = rewrite(source, profile=profile, identity=IDENTITIES[0], subject=SUBJECTS[0]).content
        assert (b"quuxomat" in content) == bool(words)


@pytest.mark.parametrize("explicit", [True, False])
def test_the_same_bytes_in_blocks_of_other_creators_are_told_apart(explicit: bool) -> None:
    element = text(0x00191008, "CS", "IMAGE NUM 4 ")
    creators = ("SIEMENS MR HEADER", "NOBODY", "GEMS_ACQU_01")
    sources = [image(text(0x00190010, "LO", one), element, explicit=explicit) for one in creators]
    assert len(set(map(repr, assert_order_is_irrelevant(sources)))) == len(creators)


def test_the_same_bytes_whose_vr_is_looked_up_and_is_not_are_told_apart() -> None:
    """A creator's name that fills more than 64 bytes is not looked up, though without its padding it is the same."""
    pitch = Leaf(tag=0x01F11026, vr="DS", value=b"1.500000")
    creators = ("ELSCINT1", "ELSCINT1".ljust(66))
    sources = [image(text(0x01F10010, "LO", one), pitch, explicit=False) for one in creators]
    assert len({(b"1.500000" in made[0]) for made in assert_order_is_irrelevant(sources)}) == 2


@pytest.mark.parametrize("explicit", [True, False])
def test_the_same_bytes_in_other_character_sets_are_told_apart(explicit: bool) -> None:
    name = "Иванов".encode("iso8859-5")
    sets = ("ISO_IR 144", "ISO_IR 100", "ISO_IR 101")
    sources = [image(text(0x00080005, "CS", one), text(0x00080070, "LO", name), explicit=explicit) for one in sets]
    cyrillic, *_ = assert_order_is_irrelevant(sources, frozenset({"Иванов"}))
    assert name not in cyrillic[0]


def test_dates_that_were_moved_before_are_told_apart() -> None:
    date = text(0x00080021, "DA", "20200301")
    moved = image(date, text(0x00120062, "CS", "YES"), text(0x00280303, "CS", "MODIFIED"))
    fresh_made, moved_made = assert_order_is_irrelevant([image(date), moved])
    assert b"20200301" not in fresh_made[0]
    assert b"20200301" in moved_made[0]


def test_the_same_bytes_in_other_sequences_are_told_apart() -> None:
    item = (
        text(0x00080100, "SH", "QUUX1"),
        text(0x00080102, "SH", "99QUUX"),
        text(0x00080104, "LO", "Brain"),
        text(0x00081150, "UI", "1.2.840.10008.5.1.4.1.1.4"),
        text(0x00120062, "CS", "YES"),
    )
    sequences = (0x00082218, 0x00321064, 0x00081140, 0x00400275, 0x00189346)
    sources = [image(*(nested(tag, item) for tag in pair)) for pair in itertools.combinations(sequences, 2)]
    assert_order_is_irrelevant(sources)


def test_no_more_than_so_much_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "_MOST_REMEMBERED", 20)
    forget()
    for number in range(2 * rewriting._MOST_CONTEXTS):
        write_instance(tmp_path / "file", make_instance(instance=number + 1, ImageComments=f"comment {number}"))
        subject = Subject(pseudonym=f"SUB-{number}", shift_days=-400)
        rewrite((tmp_path / "file").read_bytes(), profile=DEFAULT_PROFILE, identity=IDENTITIES[0], subject=subject)
        assert 0 < len(rewriting._remembered) <= rewriting._MOST_CONTEXTS
        for outcomes in rewriting._remembered.values():
            assert len(outcomes) <= 20
            contents = [key if isinstance(key, bytes) else key[-1] for key in outcomes]
            assert max(map(len, contents), default=0) <= rewriting._REMEMBERED_BYTES


def test_no_more_tags_than_so_many_are_remembered(scanner_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siemens, "_MOST_KNOWN_TAGS", 30)
    forget()
    for job in jobs_of(scanner_data / SERIES[0]):
        outcome(*job)
        assert len(siemens._known_tags) <= 30
        assert len(siemens._last_headers) <= siemens._MOST_HEADERS
    assert max(len(content) for _, content in siemens._known_tags) <= siemens._LONGEST_KNOWN_TAG
