"""Verdicts come out as tables that other programs read, the same bytes each time."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.review.manifest import Manifest
from tasks.review.ratings import Event, Mark
from tasks.review.ratings_export import export_ratings, mark_rows, rating_rows
from tasks.review.reading import ReadingProtocol
from tests.viewer.test_session import PLAIN, entry, manifest, store_at
from viewer.session import Session

NOTES = ["ringing, mild, left", 'a "quoted"\tword\nand a line', "=HYPERLINK(1)", "\u00fcber \U0001f9e0"]


@pytest.fixture
def events(tmp_path: Path) -> dict[str, tuple[Event, ...]]:
    said = {}
    for reader, verdicts in (("bob", ["accept", "reject"]), ("ann", ["accept", "query", "reject", "accept"])):
        with store_at(tmp_path / f"{reader}.db") as store:
            session = Session(manifest(4), store, PLAIN, reader=reader)
            session.resume()
            for number, verdict in enumerate(verdicts):
                session.note(NOTES[number])
                session.toggle_artefact("ghost")
                session.add_mark((1.5, -2.0, 3.25), 0, "here")
                session.rate(verdict, {"quality_shown": False})
            session.undo()
            session.rate("query")
            said[reader] = store.events()
    return said


def test_a_table_holds_what_stands(events: dict[str, tuple[Event, ...]], tmp_path: Path) -> None:
    assert export_ratings(tmp_path / "out", manifest(4), events, PLAIN) == 6
    lines = (tmp_path / "out" / "ratings.tsv").read_text("utf-8").split("\n")
    table = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [(row["entry_id"][:8], row["reader"], row["verdict"]) for row in table] == [
        ("SUB-0001", "ann", "accept"),
        ("SUB-0001", "bob", "accept"),
        ("SUB-0002", "ann", "query"),
        ("SUB-0002", "bob", "query"),
        ("SUB-0003", "ann", "reject"),
        ("SUB-0004", "ann", "query"),
    ]
    assert table[0]["participant_id"] == "sub-SUB0001"
    assert table[0]["note"] == NOTES[0]
    assert [row["changes"] for row in table] == ["0", "0", "0", "1", "0", "1"]
    described = json.loads((tmp_path / "out" / "ratings.json").read_bytes())
    assert described.keys() == table[0].keys()
    assert described["verdict"]["Levels"].keys() == {"accept", "query", "reject"}
    marks = (tmp_path / "out" / "marks.tsv").read_text("utf-8").splitlines()
    assert len(marks) == 7
    assert "\t1.5\t-2.0\t3.25\t0\there" in marks[1]


def test_notes_come_back_whole_from_csv_and_json_lines(events: dict[str, tuple[Event, ...]], tmp_path: Path) -> None:
    export_ratings(tmp_path, manifest(4), events, PLAIN)
    with (tmp_path / "ratings.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    said = [row["note"] for row in table if row["reader"] == "ann"]
    assert said == [NOTES[0], NOTES[1], f"'{NOTES[2]}", NOTES[3]], "no spreadsheet takes a note for a formula"
    lines = [json.loads(line) for line in (tmp_path / "ratings.jsonl").read_text("utf-8").splitlines()]
    assert [line["note"] for line in lines if line["reader"] == "ann"] == NOTES


def test_the_same_ratings_give_the_same_bytes(events: dict[str, tuple[Event, ...]], tmp_path: Path) -> None:
    export_ratings(tmp_path / "one", manifest(4), events, PLAIN)
    export_ratings(tmp_path / "other", manifest(4), dict(reversed(events.items())), PLAIN)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_verdicts_on_another_picture_are_marked(events: dict[str, tuple[Event, ...]]) -> None:
    changed = Manifest(entries=(replace(entry(1), digest="1" * 64), entry(2), entry(3)))
    rows = {(row["entry_id"][:8], row["reader"]): row["status"] for row in rating_rows(changed, events)}
    assert rows["SUB-0001", "ann"] == rows["SUB-0004", "ann"] == "stale"
    assert rows["SUB-0002", "ann"] == "rated"


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=4))
@settings(max_examples=60, deadline=None)
def test_whatever_was_written_a_table_has_its_rows_and_columns(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str]]
) -> None:
    acts = []
    for number, (note, text) in enumerate(said, 1):
        case = f"case-{number}"
        acts.append(Event(number=2 * number, event_id=f"a{number}", kind="note", case=case, presentation=1, note=note))
        mark = Mark(mm=(0.0, 0.0, 0.0), text=text)
        told = {"number": 2 * number + 1, "event_id": f"b{number}", "kind": "mark"}
        acts.append(Event(case=case, presentation=1, mark=mark, **told))
    folder = tmp_path_factory.mktemp("export")
    try:
        encoded = [(note + text).encode("utf-8") for note, text in said]
    except UnicodeEncodeError:
        return
    assert len(encoded) == len(said)
    assert export_ratings(folder, Manifest(entries=()), {"ann": acts}, ReadingProtocol()) == len(said)
    for name, columns in (("ratings.tsv", 17), ("marks.tsv", 8)):
        lines = (folder / name).read_text("utf-8").split("\n")[:-1]
        assert len(lines) == len(said) + 1
        assert {line.count("\t") + 1 for line in lines} == {columns}
    assert len(mark_rows({"ann": acts})) == len(said)
