"""Decide where every file goes, as a function of what the index holds: the order of arrival never matters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from tasks.sort.store import Candidate, Planned

Namer = Callable[[Candidate, str], str]
"""Names a file's place below the sorted tree, given the digest of its content where that is what tells it apart."""

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
