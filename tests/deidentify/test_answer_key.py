"""The answer key demands thousands of things of an export, ours does them, and a fault in it costs points."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import pytest
from pydicom.dataset import Dataset

from tasks.deidentify import rewrite as rewriting
from tasks.deidentify.harvest import harvest
from tasks.deidentify.identity import Identity
from tasks.deidentify.pixels import RegionRule
from tasks.deidentify.private import PrivateTable
from tasks.deidentify.profile import DEFAULT_PROFILE, MR_IMAGE_STORAGE, Action
from tests.deidentify.answer_key import ACTIONS, Check, Instance, Marks, find, read, validate, write_key
from tests.deidentify.canary_set import (
    BASES,
    BURNT_AREA,
    MORE_BASES,
    burnt_in_files,
    canary_set,
    find_base,
    real_files,
)
from tests.deidentify.oracle import IDENTITY, SUBJECT

FEWEST_CHECKS = 8000
LOWEST_SHARE = 99.95

PROFILE = dataclasses.replace(
    DEFAULT_PROFILE,
    regions=tuple(
        RegionRule(modality=modality, rows=64, columns=128, areas=(BURNT_AREA,), release=True)
        for modality in ("OT", "US")
    ),
)
"""The default, with a region for what `burnt_in_files` makes."""


@dataclasses.dataclass(frozen=True)
class Exam:
    """A key, and the sources it was made of by SOP instance UID."""

    path: Path
    sources: dict[str, bytes]
    checks: int

    def marks(self, exports: dict[str, bytes | None], **told: object) -> Marks:
        return validate(self.path, exports, **told)  # type: ignore[arg-type]

    def exports(self, identity: Callable[[], Identity] = lambda: IDENTITY) -> dict[str, bytes | None]:
        return {uid: ours(source, identity()) for uid, source in self.sources.items()}


def ours(source: bytes, identity: Identity = IDENTITY) -> bytes:
    known = harvest(source).identifiers
    return rewriting.rewrite(source, profile=PROFILE, identity=identity, subject=SUBJECT, known=known).content


def exam(path: Path, instances: list[Instance]) -> Exam:
    checks = write_key(path, instances)
    sources = {str(read(source).SOPInstanceUID): source for source, _, _ in instances}
    assert len(sources) == len(instances)
    return Exam(path, sources, checks)


@pytest.fixture(scope="module")
def whole(scanner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Exam:
    """Everything planted, the same bases as scanners wrote them, and images with text in their pixels."""
    planted = [file for file in canary_set(scanner_data) if not file.may_be_refused]
    instances: list[Instance] = [(file.content, file.canaries, None) for file in planted]
    instances += [(find_base(scanner_data, pattern).read_bytes(), (), None) for pattern, _ in BASES.values()]
    instances += [(file.content, file.canaries, BURNT_AREA) for file in burnt_in_files()]
    return exam(tmp_path_factory.mktemp("key") / "key.sqlite", instances)


@pytest.fixture(scope="module")
def small(scanner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Exam:
    """Two vendors' files, planted, and one as its scanner wrote it."""
    bases = {vendor: BASES[vendor] for vendor in ("GE", "Philips")}
    instances: list[Instance] = [(file.content, file.canaries, None) for file in real_files(scanner_data, bases=bases)]
    instances.append((find_base(scanner_data, BASES["GE"][0]).read_bytes(), (), None))
    return exam(tmp_path_factory.mktemp("key") / "key.sqlite", instances)


def assert_passed(marks: Marks) -> None:
    assert marks.share >= LOWEST_SHARE, marks.failed[:20]
    assert marks.of("HIPAA") == 100, [check for _, check in marks.failed if check.answer_category.startswith("HIPAA")]


def test_our_export_scores(whole: Exam, capsys: pytest.CaptureFixture[str]) -> None:
    marks = whole.marks(whole.exports(), uids=IDENTITY.new_uid)
    with capsys.disabled():
        sys.stdout.write(f"\n  answer key: {marks.passed.total()} of {marks.total} checks, {marks.share:.3f} %\n")
    assert marks.total == whole.checks >= FEWEST_CHECKS
    assert_passed(marks)


def test_the_key_asks_for_all_ten_actions_in_the_form_of_the_challenge(whole: Exam) -> None:
    with closing(sqlite3.connect(whole.path)) as base:
        columns = [row[1] for row in base.execute("PRAGMA table_info(answer_data)")]
        rows = base.execute("SELECT AnswerData FROM answer_data").fetchall()
    assert columns[1:] == [
        "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "Digest",
        "AnswerData",
    ]  # fmt: skip
    checks = [Check(**fields) for (answers,) in rows for fields in json.loads(answers).values()]
    assert {check.action for check in checks} == set(ACTIONS)
    assert all(find(read(source), "<(0008,0016)>") is not None for source in whole.sources.values())
    assert sum('"' in check.tag_ds for check in checks) > 500
    assert sum("[" in check.tag_ds for check in checks) > 1000


@pytest.mark.long
def test_our_export_of_other_releases_scores(scanner_data: Path, tmp_path: Path) -> None:
    instances: list[Instance] = [
        (file.content, file.canaries, None) for file in real_files(scanner_data, bases=MORE_BASES)
    ]
    instances += [(find_base(scanner_data, pattern).read_bytes(), (), None) for pattern, _ in MORE_BASES.values()]
    made = exam(tmp_path / "key.sqlite", instances)
    assert_passed(made.marks(made.exports(), uids=IDENTITY.new_uid))


# ---- sabotage


def test_a_mapping_need_not_be_submitted(small: Exam) -> None:
    assert_passed(small.marks(small.exports()))


def test_the_source_fails_what_must_go_and_passes_what_must_stay(small: Exam) -> None:
    marks = small.marks(dict(small.sources))
    actions = {check.action for _, check in marks.failed}
    assert actions == {"text_removed", "date_shifted", "uid_changed"}
    assert marks.of("HIPAA") < 5
    assert marks.of("TCIA-PTKB") < 100


def test_a_missing_file_passes_what_must_go_and_fails_what_must_stay(small: Exam) -> None:
    marks = small.marks(dict.fromkeys(small.sources))
    actions = {check.action for _, check in marks.failed}
    assert actions == {
        "tag_retained", "text_notnull", "text_retained", "uid_consistent", "patid_consistent", "pixels_retained",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "action", "category"),
    [
        (0x00100010, Action.KEEP, "HIPAA-A"),
        (0x00101040, Action.KEEP, "HIPAA-B"),
        (0x00080020, Action.KEEP, "HIPAA-C"),
        (0x00080050, Action.KEEP, "HIPAA-R"),
        (0x00181000, Action.KEEP, "HIPAA-M"),
        (0x0020000D, Action.KEEP, "DICOM-P15-BASIC-U"),
        (0x0008103E, Action.KEEP, "TCIA-REV"),
        (0x0008103E, Action.REMOVE, "TCIA-P15-DESC-C"),
        (0x00080032, Action.REMOVE, "TCIA-P15-MOD-C"),
        (0x00180081, Action.REMOVE, "DICOM-P15-BASIC-K"),
    ],
)
def test_a_rule_changed_costs_points(
    small: Exam, monkeypatch: pytest.MonkeyPatch, tag: int, action: Action, category: str
) -> None:
    monkeypatch.setattr(rewriting, "_remembered", {})
    monkeypatch.setitem(PROFILE.actions(MR_IMAGE_STORAGE).by_tag, tag, action)
    assert small.marks(small.exports()).of(category) < 100


def test_private_elements_dropped_cost_points(small: Exam, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = PrivateTable(digest="", rules=(), by_element=MappingProxyType({}))
    monkeypatch.setattr(rewriting, "_remembered", {})
    monkeypatch.setattr(rewriting, "load_private_table", lambda: empty)
    assert small.marks(small.exports()).of("TCIA-PTKB") < 50


def test_uids_that_differ_from_file_to_file_cost_points(small: Exam, scanner_data: Path, tmp_path: Path) -> None:
    """Of two files of one series, each made with a secret of its own."""
    first = find_base(scanner_data, BASES["GE"][0])
    two = exam(tmp_path / "two", [(path.read_bytes(), (), None) for path in sorted(first.parent.glob("*.dcm"))[:2]])
    assert two.marks(two.exports()).failed == ()
    marks = two.marks(two.exports(lambda: Identity(secrets.token_bytes(32))))
    assert {check.action for _, check in marks.failed} == {"uid_consistent"}


def test_a_pixel_changed_costs_points(small: Exam) -> None:
    exports = small.exports()
    for uid, content in exports.items():
        assert content is not None
        at = content.rindex(read(content).PixelData[:64])
        exports[uid] = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    assert {check.action for _, check in small.marks(exports).failed} == {"pixels_retained"}


def test_text_left_in_the_pixels_costs_points(whole: Exam) -> None:
    burnt = {str(read(file.content).SOPInstanceUID): file.content for file in burnt_in_files()}
    failed = {check.action for uid, check in whole.marks({**whole.exports(), **burnt}).failed if uid in burnt}
    assert "pixels_hidden" in failed
    assert "pixels_retained" not in failed


def test_paths_lead_through_items_and_find_creators_in_any_block() -> None:
    dataset, item = Dataset(), Dataset()
    item.add_new(0x00190012, "LO", "CREATOR")
    item.add_new(0x00191292, "DS", "3")
    dataset.add_new(0x00081140, "SQ", [Dataset(), item])
    found = find(dataset, '<(0008,1140)>[<0001>]<(0019,"CREATOR",92)>')
    assert found is not None
    assert found.value == 3
    for missing in ('<(0008,1140)>[<0002>]<(0019,"CREATOR",92)>', '<(0008,1140)>[<0001>]<(0019,"OTHER",92)>'):
        assert find(dataset, missing) is None
