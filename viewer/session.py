"""The reading loop without a screen: which case comes next, what the reader says of it, and that it is kept."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from tasks.errors import ScanwardError, UsageError
from tasks.review.manifest import Entry, Manifest
from tasks.review.ratings import Event, Mark, RatingStore, Standing, standing, taken_back
from tasks.review.reading import ReadingProtocol

Only = Literal["unrated", "flagged", "disagreed", "stale"]
"""Which cases a sitting is about, if not about all."""

APART = 6
"""A hidden repeat comes at least so many cases after the first reading."""

_LETTERS: Final = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
_CODE_LENGTH = 4
_NOTHING: Final = Standing()
_UNDOABLE: Final = ("rate", "tick", "note", "mark", "unmark", "skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """One showing of a case.

    Attributes
    ----------
    case
        The entry id.
    presentation
        1, or 2 for a hidden repeat.
    code
        What stands for it where readers are blinded.
    """

    case: str
    presentation: int
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TooSoon:
    """The verdict was not taken: the case has not been looked at for long enough; seconds that are left."""

    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a sitting is.

    Attributes
    ----------
    done, total
        Showings with a standing verdict, of all in the sitting.
    stale, skipped
        Showings whose image changed since the verdict, and those that were put off.
    elapsed_s
        Seconds of reading since the sitting began, without those in which nothing was touched.
    per_case_s, remaining_s
        Seconds that a case took so far, and what is left at that rate; None before the first verdict.
    """

    done: int
    total: int
    stale: int
    skipped: int
    elapsed_s: float
    per_case_s: float | None
    remaining_s: float | None


class Session:
    """One reader's sitting over a manifest.

    Parameters
    ----------
    manifest, protocol
        What there is to read, and how.
    store
        The reader's own; every act goes there before it counts.
    reader
        Decides order, codes and repeats together with the protocol's seed.
    only
        Which cases to read; all if None.
    flagged
        Entry ids with flags.
    others
        The acts of other readers, by name.
    monotonic
        Seconds of a clock that never jumps.

    Attributes
    ----------
    queue
        What is read, in order.
    position
        Which of it is on screen, from 0.
    fault
        Why the last act was not kept; None as long as everything is.

    Raises
    ------
    UsageError
        If there is nothing to read.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: RatingStore,
        protocol: ReadingProtocol,
        *,
        reader: str,
        only: Only | None = None,
        flagged: frozenset[str] = frozenset(),
        others: Mapping[str, Sequence[Event]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.protocol = protocol
        self.reader = reader
        self.fault: ScanwardError | None = None
        self._scale = frozenset(grade.name for grade in protocol.scale)
        self._store = store
        self._monotonic = monotonic
        self._entries = {entry.entry_id: entry for entry in manifest.entries}
        self._events = list(store.events())
        self._standing = standing(self._events)
        self._of_case: dict[tuple[str, int], list[Event]] = {}
        for event in self._events:
            self._of_case.setdefault((event.case, event.presentation), []).append(event)
        cases = flagged if only == "flagged" else frozenset(self._entries)
        if only == "disagreed":
            digests = {case: entry.digest for case, entry in self._entries.items()}
            cases = compare_readers(others or {}, digests).disagreed
        order = reading_order(manifest.entries, protocol, reader)
        self.queue = tuple(one for one in order if one.case in cases and self._is_wanted(one, only))
        if not self.queue:
            raise UsageError(
                problem="There is nothing to read." if only is None else f"No case is {only}.",
                remedy="Without --only every case of the manifest is read.",
            )
        self.position = 0
        self._places = {_key(one): place for place, one in enumerate(self.queue)}
        self._opened: Presentation | None = None
        # Time on a case is kept when the reader leaves it without an act: the next act on it tells it.
        self._looked_s: defaultdict[tuple[str, int], float] = defaultdict(float)
        self._told_s: defaultdict[tuple[str, int], float] = defaultdict(float)
        self._touched = monotonic()
        self._looked_before_s = 0.0

    def _is_wanted(self, one: Presentation, only: Only | None) -> bool:
        if only == "unrated":
            return self.state(one) in ("unrated", "skipped")
        if only == "stale":
            return self.state(one) == "stale"
        return only != "disagreed" or one.presentation == 1

    # -- where the reader is -------------------------------------------------------------------------------------------

    @property
    def current(self) -> Presentation:
        """What is on screen."""
        return self.queue[self.position]

    @property
    def entry(self) -> Entry:
        """The manifest's entry of what is on screen."""
        return self._entries[self.current.case]

    @property
    def now(self) -> Standing:
        """What stands of what is on screen."""
        return self.standing_of(self.current)

    def standing_of(self, one: Presentation) -> Standing:
        """Give what stands of a showing."""
        return self._standing.get(_key(one), _NOTHING)

    def state(self, one: Presentation) -> str:
        """Say how far a showing is: "unrated", "skipped", "stale" or "rated"."""
        found = self.standing_of(one)
        if found.verdict:
            # A verdict that the study has given up says as little of the image as one on another image.
            holds = found.digest == self._entries[one.case].digest and found.verdict in self._scale
            return "rated" if holds else "stale"
        return "skipped" if found.is_skipped else "unrated"

    def title(self, one: Presentation) -> str:
        """Say what stands above the images: a code if readers are blinded. Nothing tells a repeat."""
        if self.protocol.is_blinded:
            return one.code
        entry = self._entries[one.case]
        return " ".join(part for part in (entry.subject, entry.visit, entry.group or entry.series) if part)

    @property
    def is_finished(self) -> bool:
        """True if every showing has a verdict that stands."""
        return all(self.state(one) == "rated" for one in self.queue)

    def resume(self, case: str | None = None) -> None:
        """Go where the reader stopped: to the case that was open, or to the next one without a verdict.

        Parameters
        ----------
        case
            An entry id to begin with instead.

        Raises
        ------
        UsageError
            If the sitting has no such case.
        """
        self._touched = self._monotonic()
        if case is not None:
            place = next((place for place, one in enumerate(self.queue) if one.case == case), None)
            if place is None:
                raise UsageError(
                    problem=f"This sitting has no case {case}.",
                    remedy="Give an entry id of the manifest, and no --only that leaves it out.",
                )
            self.go(place)
            return
        for event in reversed(self._events):
            place = self._places.get((event.case, event.presentation))
            if place is not None:
                self.position = place
                break
        if self.state(self.current) == "rated":
            self.position = next(self._open_ones(), self.position)
        self._open()

    def _open_ones(self) -> Iterator[int]:
        """Walk over the showings without a standing verdict, around the end; those that were put off come last."""
        around = [*range(self.position + 1, len(self.queue)), *range(self.position + 1)]
        put_off = []
        for place in around:
            state = self.state(self.queue[place])
            if state == "skipped":
                put_off.append(place)
            elif state != "rated":
                yield place
        yield from put_off

    def _go_on(self) -> None:
        self.go(next(self._open_ones(), self.position))

    def go(self, position: int) -> None:
        """Show the case at a place of the queue; places beyond its ends are its ends."""
        self.activity()
        self.position = min(max(position, 0), len(self.queue) - 1)
        self._looked_before_s = self._looked_s[_key(self.current)]
        self._open()

    def next(self) -> None:
        """Show the next case, without a verdict."""
        self.go(self.position + 1)

    def previous(self) -> None:
        """Show the case before."""
        self.go(self.position - 1)

    def upcoming(self, count: int) -> list[str]:
        """List the entry ids that are likely to be shown next: `count` without a verdict, then the neighbours."""
        wanted = dict.fromkeys(self.queue[place].case for place in islice(self._open_ones(), count))
        for place in (self.position + 1, self.position - 1):
            if 0 <= place < len(self.queue):
                wanted.setdefault(self.queue[place].case)
        wanted.pop(self.current.case, None)
        return list(wanted)

    # -- acts ----------------------------------------------------------------------------------------------------------

    @property
    def is_saved(self) -> bool:
        """True if every act so far is on the disk."""
        return self.fault is None

    def _open(self) -> None:
        one = self.current
        if self._opened != one and self._keep("open") is not None:
            self._opened = one

    def _keep(self, kind: str, **facts: Any) -> Event | None:
        """Write an act down; what could not be written did not happen, and the reader is told."""
        one: Presentation = facts.pop("about", None) or self.current
        key = _key(one)
        self.activity()
        looked = self._told_s[key] if kind == "open" else self._looked_s[key]
        try:
            event = self._store.append(
                kind,
                case=one.case,
                presentation=one.presentation,
                digest=self._entries[one.case].digest,
                dwell_s=looked - self._told_s[key],
                **facts,
            )
        except ScanwardError as fault:
            self.fault = fault
            return None
        self.fault = None
        self._told_s[key] = looked
        self._events.append(event)
        # Only this showing can have changed: a study has tens of thousands of acts.
        self._of_case.setdefault(key, []).append(event)
        self._standing.update(standing(self._of_case[key]))
        return event

    def begin_look(self) -> None:
        """Count the time on the case from now on: what passed until it came on screen was no look at it."""
        self._touched = self._monotonic()
        self._looked_s[_key(self.current)] = max(self._looked_before_s, self._told_s[_key(self.current)])

    def activity(self) -> None:
        """Count the time since the last key or movement, but no longer than until the reader counts as away."""
        now = self._monotonic()
        passed, self._touched = now - self._touched, now
        self._looked_s[_key(self.current)] += min(passed, self.protocol.idle_after_s)

    def rate(self, verdict: str, view: Mapping[str, Any] | None = None) -> Event | TooSoon | None:
        """Give a verdict and go on to the next case without one.

        Parameters
        ----------
        verdict
            A name of the scale.
        view
            What was on screen, and how.

        Returns
        -------
        Event, TooSoon or None
            None if it could not be kept; `fault` says why, and the case stays on screen.

        Raises
        ------
        ValueError
            If the scale has no such step.
        """
        if verdict not in self._scale:
            raise ValueError(f"the scale has no step {verdict}")
        self.activity()
        left = self.protocol.minimum_look_s - self._looked_s[_key(self.current)]
        if left > 0:
            return TooSoon(seconds_left=left)
        event = self._keep("rate", verdict=verdict, artefacts=self.now.artefacts, view=view)
        if event is not None:
            self._go_on()
        return event

    def toggle_artefact(self, name: str) -> Event | None:
        """Tick an artefact, or take the tick away.

        Raises
        ------
        ValueError
            If the protocol has no such artefact.
        """
        known = [grade.name for grade in self.protocol.artefacts]
        if name not in known:
            raise ValueError(f"the protocol has no artefact {name}")
        ticked = set(self.now.artefacts) ^ {name}
        return self._keep("tick", artefacts=tuple(one for one in known if one in ticked))

    def note(self, text: str) -> Event | None:
        """Write the note on the case, in place of the one before; nothing happens if it is the same."""
        return self._keep("note", note=text) if text != self.now.note else None

    def add_mark(self, mm: tuple[float, float, float], volume: int, text: str = "") -> Event | None:
        """Mark a place, in RAS+ millimetres."""
        return self._keep("mark", mark=Mark(mm=mm, volume=volume, text=text))

    def remove_mark(self, mark_id: str) -> Event | None:
        """Take a mark away, by the id of the event that set it.

        Raises
        ------
        KeyError
            If no such mark stands.
        """
        if mark_id not in self.now.marks:
            raise KeyError(mark_id)
        return self._keep("unmark", target=mark_id)

    def skip(self, reason: str = "") -> Event | None:
        """Put the case off and go on; it comes again at the end."""
        event = self._keep("skip", note=reason)
        if event is not None:
            self._go_on()
        return event

    def undo(self) -> Event | None:
        """Take the last act back and show its case; None if there is none, or if that could not be kept."""
        undone = taken_back(self._events)
        for event in reversed(self._events):
            place = self._places.get((event.case, event.presentation))
            if event.kind in _UNDOABLE and event.event_id not in undone and place is not None:
                kept = self._keep("undo", target=event.event_id, about=self.queue[place])
                if kept is not None:
                    self.go(place)
                return kept
        return None

    def close(self) -> None:
        """Write down that the sitting ended."""
        self._keep("close")

    @property
    def progress(self) -> Progress:
        """How far the sitting is."""
        states = [self.state(one) for one in self.queue]
        done = states.count("rated")
        spent = sum(
            self.standing_of(one).dwell_s for one, state in zip(self.queue, states, strict=True) if state == "rated"
        )
        each = spent / done if done else None
        return Progress(
            done=done,
            total=len(states),
            stale=states.count("stale"),
            skipped=states.count("skipped"),
            elapsed_s=sum(self._looked_s.values()),
            per_case_s=each,
            remaining_s=each * (len(states) - done) if each is not None else None,
        )


def _key(one: Presentation) -> tuple[str, int]:
    return one.case, one.presentation


# -- order, codes, repeats ---------------------------------------------------------------------------------------------


def reading_order(entries: Sequence[Entry], protocol: ReadingProtocol, reader: str) -> list[Presentation]:
    """Put the cases in a reader's order, with the hidden repeats among them.

    A case's place depends on nothing but seed, reader and entry id, so that cases that are added later leave the
    others in their order.
    """
    seed = 0 if protocol.seed is None else protocol.seed
    cases = [entry.entry_id for entry in entries]
    if protocol.seed is not None:
        cases.sort(key=lambda case: _draw(seed, reader, "order", case))
    codes = _codes(cases, seed)
    queue = [Presentation(case=case, presentation=1, code=codes[case, 1]) for case in cases]
    repeated = [case for case in cases if _share(seed, reader, "repeat", case) < protocol.repeat_share]
    for case in repeated:
        first = next(place for place, one in enumerate(queue) if one.case == case)
        room = len(queue) - (first + APART)
        if room < 0:
            continue
        place = first + APART + int(_share(seed, reader, "place", case) * (room + 1))
        queue.insert(place, Presentation(case=case, presentation=2, code=codes[case, 2]))
    return queue


def _draw(seed: int, *words: str) -> bytes:
    return hashlib.sha256("\n".join([str(seed), *words]).encode("utf-8")).digest()


def _share(seed: int, *words: str) -> float:
    return int.from_bytes(_draw(seed, *words)[:7], "big") / 2.0**56


def _codes(cases: Iterable[str], seed: int) -> dict[tuple[str, int], str]:
    """Give each showing a code of its own, the same for every reader; a letter more where two would be the same."""
    codes: dict[tuple[str, int], str] = {}
    taken: set[str] = set()
    for case in sorted(cases):
        for presentation in (1, 2):
            drawn = _draw(seed, "code", case, str(presentation))
            letters = "".join(_LETTERS[one % len(_LETTERS)] for one in drawn)
            length = _CODE_LENGTH
            while letters[:length] in taken:
                length += 1
            taken.add(letters[:length])
            codes[case, presentation] = letters[:length]
    return codes


# -- several readers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Where readers agree: entry ids, of the first reading of each.

    Attributes
    ----------
    agreed, disagreed
        Cases that at least two readers rated, alike or not.
    missing
        Cases that only one of them rated.
    """

    agreed: frozenset[str]
    disagreed: frozenset[str]
    missing: frozenset[str]


def compare_readers(events: Mapping[str, Sequence[Event]], digests: Mapping[str, str] | None = None) -> Compared:
    """Compare the standing verdicts of readers.

    Parameters
    ----------
    events
        The acts of each reader, by name.
    digests
        Of the pictures as they are now, by entry id: verdicts on other pictures do not count. All count if None.
    """
    verdicts: dict[str, list[str]] = {}
    for acts in events.values():
        for (case, presentation), found in standing(acts).items():
            is_current = digests is None or found.digest == digests.get(case)
            if presentation == 1 and found.verdict and is_current:
                verdicts.setdefault(case, []).append(found.verdict)
    return Compared(
        agreed=frozenset(case for case, given in verdicts.items() if len(given) > 1 and len(set(given)) == 1),
        disagreed=frozenset(case for case, given in verdicts.items() if len(set(given)) > 1),
        missing=frozenset(case for case, given in verdicts.items() if len(given) == 1),
    )
