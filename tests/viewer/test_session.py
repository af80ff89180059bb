"""The reading loop: every verdict is kept, the order is each reader's own, and it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import UsageError
from tasks.review.geometry import Geometry
from tasks.review.manifest import Entry, Manifest
from tasks.review.ratings import Event, RatingStore, Standing, open_store
from tasks.review.reading import ReadingProtocol
from tests.builders.disks import tiny_disk
from viewer.session import APART, Presentation, Session, TooSoon, compare_readers, reading_order

PLAIN = ReadingProtocol()
SEEDED = ReadingProtocol(seed=7, repeat_share=0.2, is_blinded=True)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def entry(number: int, *, digest: str = "0" * 64) -> Entry:
    return Entry(
        entry_id=f"SUB-{number:04d}_ses-1_001_a",
        subject=f"SUB-{number:04d}",
        visit="ses-1",
        series="001_a",
        modality="MR",
        description="MR",
        sop_class="",
        transfer_syntax="",
        instances=(),
        geometry=Geometry(verdict="volume"),
        montage=None,
        group="anat/T1w",
        digest=digest,
    )


def manifest(count: int) -> Manifest:
    return Manifest(entries=tuple(entry(number) for number in range(1, count + 1)))


def store_at(path: Path, protocol: ReadingProtocol = PLAIN, clock: Clock | None = None) -> RatingStore:
    return open_store(
        path,
        reader=path.stem,
        protocol=protocol,
        software="0",
        manifest_sha256="",
        now=lambda: datetime(2026, 3, 1, tzinfo=UTC),
        monotonic=clock or Clock(),
    )


def rated(session: Session) -> dict[tuple[str, int], str]:
    return {
        (one.case, one.presentation): verdict for one in session.queue if (verdict := session.standing_of(one).verdict)
    }


# -- order and blinding ------------------------------------------------------------------------------------------------


def _order(count: int, reader: str, protocol: ReadingProtocol = SEEDED) -> list[Presentation]:
    return reading_order(manifest(count).entries, protocol, reader)


def test_without_a_seed_the_manifest_decides() -> None:
    assert [one.case for one in _order(9, "ann", PLAIN)] == [one.entry_id for one in manifest(9).entries]


def test_each_reader_has_an_order_of_their_own_and_keeps_it() -> None:
    assert _order(60, "ann") == _order(60, "ann")
    assert [one.case for one in _order(60, "ann")] != [one.case for one in _order(60, "bob")]
    codes = {one.case: one.code for one in _order(60, "ann") if one.presentation == 1}
    assert codes == {one.case: one.code for one in _order(60, "bob") if one.presentation == 1}


def test_cases_that_come_later_leave_the_others_in_their_order() -> None:
    before = [one.case for one in _order(60, "ann") if one.presentation == 1]
    after = [one.case for one in _order(75, "ann") if one.presentation == 1]
    assert [case for case in after if case in before] == before


@pytest.mark.parametrize("reader", ["ann", "bob", "eve"])
def test_repeats_come_well_apart_and_are_not_told(reader: str) -> None:
    queue = _order(200, reader)
    repeats = [place for place, one in enumerate(queue) if one.presentation == 2]
    assert 0.1 * 200 < len(repeats) < 0.3 * 200
    for place in repeats:
        first = next(number for number, one in enumerate(queue) if one.case == queue[place].case)
        assert place - first >= APART
    codes = [one.code for one in queue]
    assert len(set(codes)) == len(codes)
    assert not any(one.case[:8] in one.code or "SUB" in one.code for one in queue)


def test_blinded_titles_are_codes_and_others_names(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db", SEEDED) as store:
        session = Session(manifest(20), store, SEEDED, reader="ann")
        assert session.title(session.current) == session.current.code
        plain = Session(manifest(20), store, replace(SEEDED, is_blinded=False), reader="ann")
        assert plain.title(plain.current).startswith("SUB-")


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_one_verdict_goes_on_and_undo_comes_back(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(4), store, PLAIN, reader="ann")
        session.resume()
        first = session.current
        session.toggle_artefact("motion")
        assert isinstance(session.rate("query"), Event)
        assert session.position == 1
        session.undo()
        assert session.current == first
        assert (session.now.verdict, session.now.artefacts) == ("", ("motion",))
        session.undo()
        assert session.now.artefacts == ()
        assert session.undo() is None
        session.rate("accept")
        assert rated(session) == {(first.case, 1): "accept"}


def test_it_goes_on_where_it_stopped_at_every_act(tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    for expected in range(6):
        with store_at(path) as store:
            session = Session(manifest(6), store, PLAIN, reader="ann")
            session.resume()
            assert session.position == expected
            assert len(rated(session)) == expected
            session.note(f"note {expected}")
            session.rate("accept")
    with store_at(path) as store:
        session = Session(manifest(6), store, PLAIN, reader="ann")
        session.resume()
        assert session.is_finished
        assert [session.standing_of(one).note for one in session.queue] == [f"note {number}" for number in range(6)]


def test_a_case_that_was_open_is_open_again(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(5), store, PLAIN, reader="ann")
        session.resume()
        session.go(3)
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(5), store, PLAIN, reader="ann")
        session.resume()
        assert session.position == 3


def test_a_sitting_may_begin_with_a_case(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(5), store, PLAIN, reader="ann")
        session.resume(entry(3).entry_id)
        assert session.position == 2
        with pytest.raises(UsageError, match="no case"):
            session.resume("SUB-9999")


def test_a_verdict_on_another_picture_is_stale_and_comes_back(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(3), store, PLAIN, reader="ann")
        session.resume()
        for _ in range(3):
            session.rate("accept")
        changed = Manifest(entries=(entry(1), entry(2, digest="1" * 64), entry(3)))
        again = Session(changed, store, PLAIN, reader="ann")
        again.resume()
        assert (again.position, again.state(again.current)) == (1, "stale")
        assert again.progress.stale == 1
        assert [one.case for one in Session(changed, store, PLAIN, reader="ann", only="stale").queue] == [
            entry(2).entry_id
        ]
        again.rate("reject")
        assert again.is_finished


def test_what_is_put_off_comes_last(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(3), store, PLAIN, reader="ann")
        session.resume()
        session.skip("later")
        assert session.position == 1
        session.rate("accept")
        session.rate("accept")
        assert (session.position, session.state(session.current)) == (0, "skipped")


def test_a_verdict_too_soon_is_not_taken(tmp_path: Path) -> None:
    clock = Clock()
    protocol = ReadingProtocol(minimum_look_s=10.0, idle_after_s=30.0)
    with store_at(tmp_path / "ann.db", protocol, clock) as store:
        session = Session(manifest(2), store, protocol, reader="ann", monotonic=clock)
        session.resume()
        clock.seconds = 4.0
        assert session.rate("accept") == TooSoon(seconds_left=6.0)
        assert session.position == 0
        clock.seconds = 10.0
        assert isinstance(session.rate("accept"), Event)
        assert session.standing_of(session.queue[0]).dwell_s == 10.0
        session.undo()
        assert isinstance(session.rate("query"), Event), "it has been looked at before"


def test_what_passes_before_a_case_is_on_screen_is_no_look(tmp_path: Path) -> None:
    clock = Clock()
    protocol = ReadingProtocol(minimum_look_s=10.0, idle_after_s=300.0)
    with store_at(tmp_path / "ann.db", protocol, clock) as store:
        session = Session(manifest(2), store, protocol, reader="ann", monotonic=clock)
        session.resume()
        clock.seconds = 50.0
        session.activity()
        session.begin_look()
        clock.seconds = 54.0
        assert session.rate("accept") == TooSoon(seconds_left=6.0)
        session.next()
        clock.seconds = 90.0
        session.previous()
        clock.seconds = 100.0
        session.begin_look()
        clock.seconds = 107.0
        assert isinstance(session.rate("accept"), Event), "four seconds before and seven now"
        assert session.standing_of(session.queue[0]).dwell_s == 11.0


def test_a_verdict_that_left_the_scale_comes_back(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(2), store, PLAIN, reader="ann")
        session.resume()
        session.rate("query")
        session.rate("accept")
    kept = tuple(grade for grade in PLAIN.scale if grade.name != "query")
    stricter = dataclasses.replace(PLAIN, scale=kept)
    with store_at(tmp_path / "ann.db", stricter) as store:
        session = Session(manifest(2), store, stricter, reader="ann")
        assert [session.state(one) for one in session.queue] == ["stale", "rated"]
        session.resume()
        assert session.position == 0
        with pytest.raises(ValueError, match="no step query"):
            session.rate("query")


def test_time_is_counted_where_it_was_spent_and_not_while_nobody_was_there(tmp_path: Path) -> None:
    clock = Clock()
    protocol = ReadingProtocol(idle_after_s=30.0)
    with store_at(tmp_path / "ann.db", protocol, clock) as store:
        session = Session(manifest(2), store, protocol, reader="ann", monotonic=clock)
        clock.seconds = 20.0
        session.resume()
        for seconds, step in ((5.0, session.next), (7.0, session.previous), (1000.0, session.activity)):
            clock.seconds += seconds
            step()
        clock.seconds += 2.0
        session.rate("accept")
        clock.seconds += 3.0
        session.undo()
        session.rate("accept")
        session.rate("accept")
        spent = [session.standing_of(one).dwell_s for one in session.queue]
        assert spent == [5.0 + 30.0 + 2.0, 7.0 + 3.0]
        assert session.progress.elapsed_s == sum(spent)
        assert session.progress.per_case_s == sum(spent) / 2


def test_what_cannot_be_kept_did_not_happen(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=400) as disk, store_at(disk / "ann.db") as store:
        filler = disk / "filler"
        filler.write_bytes(bytes(200_000))
        session = Session(manifest(300), store, PLAIN, reader="ann")
        session.resume()
        while session.is_saved:
            session.rate("accept", {"filler": "x" * 500})
        refused = session.position
        while session.rate("accept", {"filler": "x" * 500}) is not None:
            refused = session.position
        assert session.position == refused, "the case stays on screen"
        assert "space" in str(session.fault)
        kept = {(act.case, act.presentation): act.verdict for act in store.events() if act.kind == "rate"}
        assert kept == rated(session)
        filler.unlink()
        assert session.rate("query") is not None
        assert session.is_saved
        assert session.standing_of(session.queue[refused]).verdict == "query"


def test_words_that_are_not_in_the_protocol_are_refused(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(2), store, PLAIN, reader="ann")
        with pytest.raises(ValueError, match="no step"):
            session.rate("perfect")
        with pytest.raises(ValueError, match="no artefact"):
            session.toggle_artefact("glare")
        with pytest.raises(KeyError):
            session.remove_mark("nobody's")
        with pytest.raises(UsageError, match="No case is flagged"):
            Session(manifest(2), store, PLAIN, reader="ann", only="flagged")


ACTS = st.lists(
    st.sampled_from(
        ["accept", "query", "reject", "undo", "next", "previous", "skip", "tick", "note", "mark", "unmark"]
    ),
    max_size=25,
)


@dataclass
class Model:
    """The loop as a list of acts that is read from the beginning each time."""

    count: int
    place: int = 0
    acts: list[tuple[int, str, str]] = field(default_factory=list)

    def said(self, kind: str) -> dict[int, str]:
        return {place: text for place, what, text in self.acts if what == kind}

    def open_places(self) -> list[int]:
        states = ["unrated"] * self.count
        for place, kind, _ in self.acts:
            if kind == "rate":
                states[place] = "rated"
            elif kind == "skip" and states[place] != "rated":
                states[place] = "skipped"
        around = [(self.place + step) % self.count for step in range(1, self.count + 1)]
        return [place for state in ("unrated", "skipped") for place in around if states[place] == state]

    def go_on(self) -> None:
        self.place = [*self.open_places(), self.place][0]

    def do(self, kind: str, text: str = "") -> None:
        self.acts.append((self.place, kind, text))
        if kind in ("rate", "skip"):
            self.go_on()


def _do_both(act: str, session: Session, model: Model, number: int) -> None:
    match act:
        case "accept" | "query" | "reject":
            session.rate(act)
            model.do("rate", act)
        case "tick":
            ticked = "" if session.now.artefacts else "ghost"
            session.toggle_artefact("ghost")
            model.do("tick", ticked)
        case "note":
            session.note(f"note {number}")
            model.do("note", f"note {number}")
        case "mark":
            session.add_mark((1.0, 2.0, float(number)), 0, "here")
            model.do("mark")
        case "unmark":
            if session.now.marks:
                session.remove_mark(next(iter(session.now.marks)))
                model.do("unmark")
        case "skip":
            session.skip("later")
            model.do("skip")
        case "next":
            session.next()
            model.place = min(model.place + 1, model.count - 1)
        case "previous":
            session.previous()
            model.place = max(model.place - 1, 0)
        case "undo":
            done = session.undo()
            assert (done is not None) == bool(model.acts)
            if model.acts:
                model.place = model.acts.pop()[0]


@given(ACTS, st.sampled_from([PLAIN, SEEDED]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_whatever_is_done_and_whenever_it_is_reopened_it_stands_as_in_a_simple_list(
    tmp_path_factory: pytest.TempPathFactory, acts: Sequence[str], protocol: ReadingProtocol, reopens: bool
) -> None:
    path = tmp_path_factory.mktemp("walk") / "ann.db"
    store = store_at(path, protocol)
    session = Session(manifest(12), store, protocol, reader="ann")
    session.resume()
    model = Model(len(session.queue))
    for number, act in enumerate(acts):
        _do_both(act, session, model, number)
        if reopens:
            before = [session.standing_of(one) for one in session.queue]
            store.close()
            store = store_at(path, protocol)
            session = Session(manifest(12), store, protocol, reader="ann")
            assert [session.standing_of(one) for one in session.queue] == before
            session.resume()
            if model.place in model.said("rate"):
                model.go_on()
        standings = [session.standing_of(one) for one in session.queue]
        assert session.position == model.place
        for kind, found in (
            ("rate", [one.verdict for one in standings]),
            ("note", [one.note for one in standings]),
            ("tick", [" ".join(one.artefacts) for one in standings]),
        ):
            assert found == [model.said(kind).get(place, "") for place in range(model.count)]
        marks = Counter(place for place, kind, _ in model.acts if kind == "mark")
        marks.subtract(place for place, kind, _ in model.acts if kind == "unmark")
        assert [len(one.marks) for one in standings] == [marks[place] for place in range(model.count)]
        assert session.progress.done == len(model.said("rate"))
        assert session.is_finished == (not model.open_places())
    store.close()


@given(st.integers(1, 80), st.integers(0, 20), st.integers(0, 99), st.floats(0, 1), st.text("abcdefgh", min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_order_holds_each_case_once_and_its_repeat_far_behind(
    count: int, later: int, seed: int, share: float, reader: str
) -> None:
    protocol = ReadingProtocol(seed=seed, repeat_share=share)
    queue = _order(count + later, reader, protocol)
    first = {one.case: place for place, one in enumerate(queue) if one.presentation == 1}
    again = {one.case: place for place, one in enumerate(queue) if one.presentation == 2}
    assert sorted(first) == [one.entry_id for one in manifest(count + later).entries]
    assert len(first) + len(again) == len(queue)
    assert all(place - first[case] >= APART for case, place in again.items())
    before = [one.case for one in _order(count, reader, protocol) if one.presentation == 1]
    assert [case for case in first if case in before] == before


def test_nothing_tells_a_repeat(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db", SEEDED) as store:
        session = Session(manifest(60), store, SEEDED, reader="ann")
        session.resume()
        titles = []
        seen_again = 0
        while not session.is_finished:
            titles.append(session.title(session.current))
            seen_again += session.current.presentation == 2
            assert replace(session.now, digest="") == Standing(), "what was said the first time is not shown"
            session.toggle_artefact("ghost")
            session.note("as before")
            session.rate("query")
        assert seen_again > 3
        assert len(set(titles)) == len(titles) == len(session.queue)
        assert all(re.fullmatch("[A-Z2-9]{4,5}", title) for title in titles)


def test_readers_are_compared_on_their_first_readings(tmp_path: Path) -> None:
    said = {"ann": ["accept", "accept", "reject"], "bob": ["accept", "query"]}
    events = {}
    for reader, verdicts in said.items():
        with store_at(tmp_path / f"{reader}.db") as store:
            session = Session(manifest(4), store, PLAIN, reader=reader)
            session.resume()
            for verdict in verdicts:
                session.rate(verdict)
            events[reader] = store.events()
    found = compare_readers(events)
    first, second, third, _ = (one.entry_id for one in manifest(4).entries)
    assert (found.agreed, found.disagreed, found.missing) == ({first}, {second}, {third})
    changed = {first: entry(1).digest, second: "1" * 64}
    assert compare_readers(events, changed).disagreed == frozenset(), "they did not see the same picture"
    with store_at(tmp_path / "eve.db") as store:
        session = Session(manifest(4), store, PLAIN, reader="eve", only="disagreed", others=events)
        assert [one.case for one in session.queue] == [second]


def test_the_next_cases_are_known_ahead(tmp_path: Path) -> None:
    with store_at(tmp_path / "ann.db") as store:
        session = Session(manifest(10), store, PLAIN, reader="ann")
        session.resume()
        session.go(5)
        ids = [one.entry_id for one in manifest(10).entries]
        assert session.upcoming(2)[:2] == [ids[6], ids[7]]
        assert ids[4] in session.upcoming(2)
