"""What is remembered from file to file makes the rewriter fast, and changes nothing it writes."""

from __future__ import annotations

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
    siemens._lengths.clear()
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
            contents = [key if isinstance(key, bytes) else key[1] for key in outcomes]
            assert max(map(len, contents), default=0) <= rewriting._REMEMBERED_BYTES


def test_no_more_tags_than_so_many_are_remembered(scanner_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siemens, "_MOST_KNOWN_TAGS", 30)
    forget()
    for job in jobs_of(scanner_data / SERIES[0]):
        outcome(*job)
        assert len(siemens._known_tags) <= 30
        assert len(siemens._lengths) <= 30
    assert max(len(content) for _, content in siemens._known_tags) <= siemens._LONGEST_KNOWN_TAG
