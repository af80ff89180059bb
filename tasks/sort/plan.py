"""Decide where every file goes, as a function of what the index holds: the order of arrival never matters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from tasks.index.completeness import CompletenessRow, FrameCount, find_gaps
from tasks.index.row import ROW_FIELDS
from tasks.sort.store import Candidate, Member, Planned

Namer = Callable[[Candidate, str], str]
"""Names a file's place below the sorted tree, given the digest of its content where that is what tells it apart."""

Placer = Callable[[int, Sequence[str]], str]
"""Names the place of a file that its UID tells apart, from the number of its header and its own attributes."""

Comparer = Callable[[Sequence[Candidate]], Sequence[str]]
"""Says of files that share a SOP Instance UID how each differs from the first."""


def plan_files(candidates: Iterable[Candidate], name: Namer, compare: Comparer) -> Iterator[Planned]:
    """Plan the sorted tree.

    Files with equal bytes are kept once. Files that share a SOP Instance UID and differ are all kept, under names that
    end in their digest. Of a file that left the dump nothing is missing as long as the dump holds the same bytes
    elsewhere; otherwise what was placed of it stays.

    Parameters
    ----------
    candidates
        In the order of `SortStore.candidates`; digested where their headers do not tell them apart.
    name, compare
        See there.

    Yields
    ------
    Planned
        One for each candidate but those that left the dump and are not missed.
    """
    for sop_instance_uid, members in groupby(candidates, attrgetter("sop_instance_uid")):
        group = list(members)
        if sop_instance_uid and len(group) == 1:
            (only,) = group
            yield Planned(only.file, name(only, ""), None, "")
        else:
            yield from _plan_group(group, name, compare, named=bool(sop_instance_uid))


def plan_series(
    series: Iterable[tuple[int, Iterable[Member]]], place: Placer, gaps: dict[int, tuple[str, ...]]
) -> Iterator[Planned]:
    """Plan what `plan_files` left out: files whose SOP Instance UID no other has; and find out what is missing.

    One pass does both, because reading all rows once more costs as much as either.

    Parameters
    ----------
    series
        As `SortStore.members` yields them.
    place
        See there.
    gaps
        Takes in why series are incomplete (`find_gaps`), by their numbers.
    """
    for number, members in series:
        instances: list[CompletenessRow] = []
        counts: list[FrameCount] = []
        for member in members:
            if member.planned is None:
                own: Sequence[str] = member[_OWN:]  # type: ignore[assignment] # texts, from there on
                yield Planned(member.file, place(member.header, own), None, "")
            elif member.kept is not None or member.differs not in ("", "reference"):
                continue
            instances.append(member[_ROW])  # type: ignore[arg-type] # texts, as they are there
            if member.declared is not None:
                counts.append(FrameCount(member.declared, member.held or 0, bool(member.truncated)))
        found = find_gaps(instances, counts)
        if found:
            gaps[number] = found


_OWN = len(Member._fields) - len(ROW_FIELDS)
"""Where a member's own attributes begin."""

_ROW = slice(_OWN - len(CompletenessRow._fields), _OWN)
"""Where what counts of an instance stands."""


def _plan_group(group: list[Candidate], name: Namer, compare: Comparer, *, named: bool) -> Iterator[Planned]:
    """Plan files that share a SOP Instance UID, or have none."""
    by_content: dict[str, list[Candidate]] = defaultdict(list)
    for member in group:
        by_content[member.digest].append(member)
    # Those still in the dump first, then by name.
    contents = [sorted(same, key=lambda one: (not one.present, one.path, one.file)) for same in by_content.values()]
    contents.sort(key=lambda same: (same[0].path, same[0].file))
    contested = named and len(contents) > 1
    kept = [same[0] for same in contents]
    differs = compare(kept) if contested else [""] * len(kept)
    for same, difference in zip(contents, differs, strict=True):
        first, *others = same
        target = name(first, first.digest if contested or not named else "")
        yield Planned(first.file, target, None, difference)
        for other in others:
            if other.present:
                yield Planned(other.file, target, first.file, "")
