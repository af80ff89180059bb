"""Who could be singled out: read from the exported bytes, and counted as k-anonymity defines it."""

from __future__ import annotations

import itertools
import json
import random
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.deidentify.cohort import (
    FEWEST_MEASURED,
    QUASI_IDENTIFIERS,
    Told,
    assess_cohort,
    gather_facts,
    group_by,
    read_facts,
)
from tests.deidentify.images import image, text

FACTS = ("age", "sex", "site", "date")


def cohorts(most: int = 12) -> st.SearchStrategy[dict[str, Told]]:
    """Make subjects who tell little, so that many are alike."""
    told = st.dictionaries(st.sampled_from(FACTS), st.frozensets(st.sampled_from("abc"), min_size=1, max_size=2))
    return st.lists(told, max_size=most).map(
        lambda subjects: {f"SUB-{number:04d}": one for number, one in enumerate(subjects, 1)}
    )


def smallest(subjects: Mapping[str, Told], names: tuple[str, ...]) -> int:
    return min(map(len, group_by(subjects, names)), default=0)


# ---- groups


@given(cohorts(), st.lists(st.sampled_from(FACTS), unique=True).map(tuple))
def test_every_subject_is_in_one_group_with_all_that_tell_the_same(
    subjects: dict[str, Told], names: tuple[str, ...]
) -> None:
    groups = group_by(subjects, names)
    assert sum(map(len, groups)) == len(subjects)
    assert sorted(itertools.chain.from_iterable(groups)) == sorted(subjects)
    home = {pseudonym: number for number, group in enumerate(groups) for pseudonym in group}
    for one, other in itertools.combinations(subjects, 2):
        alike = all(subjects[one].get(name) == subjects[other].get(name) for name in names)
        assert alike == (home[one] == home[other])


@given(cohorts(), st.lists(st.sampled_from(FACTS), unique=True).map(tuple), st.sampled_from(FACTS))
def test_one_fact_more_never_makes_groups_larger(subjects: dict[str, Told], names: tuple[str, ...], more: str) -> None:
    assert smallest(subjects, (*names, more)) <= smallest(subjects, names)


@given(cohorts(), st.sampled_from(FACTS), st.dictionaries(st.sampled_from("abc"), st.sampled_from("abc")))
def test_merging_values_never_lowers_k(subjects: dict[str, Told], name: str, merged: dict[str, str]) -> None:
    coarser = {
        pseudonym: {
            fact: frozenset(merged.get(value, value) if fact == name else value for value in values)
            for fact, values in told.items()
        }
        for pseudonym, told in subjects.items()
    }
    for size in range(len(FACTS) + 1):
        for names in itertools.combinations(FACTS, size):
            assert smallest(coarser, names) >= smallest(subjects, names)


@given(cohorts(), st.integers(1, 6), st.booleans())
def test_the_numbers_of_each_combination_are_those_of_its_groups(
    subjects: dict[str, Told], asked_for: int, moved: bool
) -> None:
    cohort = assess_cohort(subjects, asked_for=asked_for, dates_are_moved=moved)
    present = [name for name in QUASI_IDENTIFIERS if any(name in told for told in subjects.values())]
    assert cohort.subjects == len(subjects)
    assert list(cohort.present) == present
    assert [one.names for one in cohort.combinations] == [
        names for size in range(1, len(present) + 1) for names in itertools.combinations(present, size)
    ]
    in_small = {(): len(subjects) if len(subjects) < asked_for else 0}
    for one in cohort.combinations:
        # Counted another way: by how often what a subject tells occurs.
        told = {pseudonym: tuple(own.get(name) for name in one.names) for pseudonym, own in subjects.items()}
        sizes = Counter(told.values())
        assert (one.groups, one.smallest) == (len(sizes), min(sizes.values()))
        in_small[one.names] = sum(1 for facts in told.values() if sizes[facts] < asked_for)
        assert one.subjects == in_small[one.names]
        assert one.small_groups == sum(1 for size in sizes.values() if size < asked_for)
    for one in cohort.combinations:
        without = {name: in_small[tuple(other for other in one.names if other != name)] for name in one.names}
        if one.driver:
            assert without[one.driver] == min(without.values()) < one.subjects
        else:
            assert min(without.values()) == one.subjects
    assert cohort.judged.names == tuple(name for name in present if not (moved and name == "date"))
    assert len(cohort.in_small_groups) == cohort.judged.subjects == in_small[cohort.judged.names]


@given(cohorts())
def test_groups_of_one_are_asked_for_of_nobody(subjects: dict[str, Told]) -> None:
    assert assess_cohort(subjects, asked_for=1, dates_are_moved=False).in_small_groups == ()


def test_who_is_alone_with_a_scanner_is_named() -> None:
    scanners = {"SUB-0001": "A", "SUB-0002": "A", "SUB-0003": "B", "SUB-0004": "AC"}
    subjects = {pseudonym: {"scanner": frozenset(names)} for pseudonym, names in scanners.items()}
    cohort = assess_cohort(subjects, asked_for=2, dates_are_moved=True)
    assert cohort.alone == {"scanner": ("SUB-0003", "SUB-0004")}
    alone = assess_cohort({"SUB-0001": {"scanner": frozenset("A")}}, asked_for=2, dates_are_moved=True)
    assert alone.alone == {"scanner": ()}, "of a single subject that would say nothing"


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        (["70", "72", "68", "75", "66", "190"], ["SUB-0006"]),
        (["70", "72", "68", "75", "66", "24"], ["SUB-0006"]),
        (["70", "72", "68", "75", "66", "80"], []),
        (["70", "70", "70", "70", "70", "71"], []),
        (["70", "70", "70", "70", "70", "84"], ["SUB-0006"]),
        (["70", "72", "190"], []),
        (["70", "72", "68", "75", "66", "nan"], []),
        (["70", "72", "68", "75", "66", "0"], []),
        (["70", "72", "68", "75", "66", "heavy"], []),
    ],
)
def test_a_weight_far_from_the_others_is_found(weights: list[str], found: list[str]) -> None:
    subjects = {f"SUB-{n:04d}": {"weight": frozenset({weight})} for n, weight in enumerate(weights, 1)}
    assert list(assess_cohort(subjects, asked_for=2, dates_are_moved=True).outlying["weight"]) == found
    assert len(weights) >= FEWEST_MEASURED or not found


@given(st.lists(st.floats(1, 300), min_size=FEWEST_MEASURED, max_size=15), st.floats(0.5, 2))
def test_outliers_do_not_depend_on_the_unit(weights: list[float], unit: float) -> None:
    def outlying(factor: float) -> set[str]:
        # Rounded, or a number on the very edge would fall to either side.
        told = {f"S{n}": {"height": frozenset({f"{round(w) * factor!r}"})} for n, w in enumerate(weights)}
        return set(assess_cohort(told, asked_for=2, dates_are_moved=True).outlying["height"])

    assert outlying(1) == outlying(2 ** round(unit))


# ---- what a file tells


def told(*more: object, explicit: bool = True) -> dict[str, str]:
    return json.loads(read_facts(image(*more, explicit=explicit)))  # type: ignore[arg-type]


@pytest.mark.parametrize("explicit", [True, False])
def test_facts_are_read_in_both_syntaxes(explicit: bool) -> None:
    more = (
        text(0x00080080, "LO", "General Hospital"),
        text(0x00081010, "SH", "MR1"),
        text(0x00081090, "LO", "Model"),
        text(0x00100040, "CS", "F"),
        text(0x00101010, "AS", "034Y"),
        text(0x00101020, "DS", "1.7"),
        text(0x00101030, "DS", "62"),
        text(0x00120063, "LO", "another 2\\scanward 1.2"),
        text(0x00181020, "LO", "v1\\v2"),
    )
    assert told(*more, explicit=explicit) == {
        "age": "34",
        "date": "2020-02",
        "height": "1.7",
        "scanner": "WORLD MAKER\\MODEL\\V1\\V2",
        "sex": "F",
        "site": "GENERAL HOSPITAL\\MR1",
        "software": "scanward 1.2",
        "weight": "62",
    }


@pytest.mark.parametrize(
    ("age", "years"),
    [
        *(("034Y", "34"), ("090Y", "90"), ("018M", "1"), ("011M", "0"), ("052W", "1"), ("010D", "0")),
        *(("000Y", None), ("", None), ("34", None), ("about 34", None)),
    ],
)
def test_ages_are_counted_in_whole_years(age: str, years: str | None) -> None:
    assert told(text(0x00101010, "AS", age)).get("age") == years


@pytest.mark.parametrize("tag", [0x00100040, 0x00080080, 0x00181000])
def test_an_emptied_or_replaced_value_tells_nothing(tag: int) -> None:
    plain = told()
    assert told(text(tag, "LO", "")) == told(text(tag, "LO", "REMOVED")) == plain
    assert told(text(tag, "LO", "X")) != plain
    assert told(text(0x00080020, "DA", "19000101")).get("date") is None


def test_what_cannot_be_followed_tells_nothing() -> None:
    more = text(0x00181020, "LO", "v1")
    content, whole = image(more), told(more)
    assert read_facts(b"") == read_facts(b"\0" * 400) == ""
    for end in range(0, content.index(b"\x20\x00\x0d\x00"), 7):
        facts = read_facts(content[:end])
        # Cut between two elements it tells what stands before the cut.
        assert all(whole[name].startswith(value) for name, value in json.loads(facts or "{}").items())


def test_facts_of_real_files_are_those_that_pydicom_reads(scanner_data: Path) -> None:
    files = sorted(path for path in scanner_data.rglob("*") if path.is_file() and path.stat().st_size < 1_000_000)
    compared = 0
    for path in random.Random(4).sample(files, 150):
        content = path.read_bytes()
        facts = read_facts(content)
        if not facts:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            sex, age = str(dataset.get("PatientSex") or ""), str(dataset.get("PatientAge") or "")
            day = str(dataset.get("StudyDate") or dataset.get("SeriesDate") or dataset.get("AcquisitionDate") or "")
            weight = str(dataset.get("PatientWeight") or "")
        own = json.loads(facts)
        assert own.get("sex", "") == sex.upper()
        if age[:3].isdecimal() and age.endswith("Y") and age != "000Y":
            assert own["age"] == str(int(age[:3]))
        if len(day) == 8:
            assert own["date"] == f"{day[:4]}-{day[4:6]}"
        if weight:
            assert float(own["weight"]) == float(weight)
        compared += 1
    assert compared > 100


@given(cohorts(), st.randoms())
def test_what_a_subject_tells_does_not_depend_on_the_order_of_the_files(
    subjects: dict[str, Told], chance: random.Random
) -> None:
    files = [
        (pseudonym, json.dumps({name: value}))
        for pseudonym, own in subjects.items()
        for name, values in own.items()
        for value in values
    ]
    files += [(pseudonym, "") for pseudonym in subjects]
    chance.shuffle(files)
    gathered = gather_facts(files)
    assert gathered == subjects
    assert list(gathered) == sorted(gathered)
