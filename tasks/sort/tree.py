"""Plan the tree of a study: a place for each file, named from what the index knows of the headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from tasks.index.row import SharedHeader
from tasks.sort.fields import Facts, canonical_header, series_key
from tasks.sort.layout import Layout
from tasks.sort.names import unfold
from tasks.sort.plan import Comparer, plan_files, plan_series
from tasks.sort.store import Candidate, Planned, SortStore
from tasks.sort.visit import (
    Acquired,
    VisitOverride,
    correct_patients,
    group_visits,
    patient_key,
    study_key,
    study_times,
)


class TreeNames:
    """Names places below the sorted tree.

    What a name is made of is worked out once for each header that files share: patients put right, the visits their
    DICOM studies make up, and one header for each series.

    Parameters
    ----------
    store
        The index.
    layout, gap_hours, overrides
        How the tree is laid out, and how visits are told apart.
    """

    def __init__(
        self, store: SortStore, layout: Layout, gap_hours: float, overrides: Mapping[str, VisitOverride]
    ) -> None:
        self._layout = layout
        self._facts = _gather_facts(store, gap_hours, overrides)
        self._namers: dict[tuple[int, int], Callable[[Sequence[str], str], str]] = {}
        self._folders: dict[int, str] = {}
        if layout.folder_needs_row:
            folders = {self._folder(one.header, one.values) for one in store.candidates()}
        else:
            self._folders = {header: layout.folder_of(facts) for header, facts in self._facts.items()}
            folders = set(self._folders.values())
        self._renamed = unfold(folders)
        self._folders = {header: self._renamed.get(folder, folder) for header, folder in self._folders.items()}

    def target(self, candidate: Candidate, digest: str) -> str:
        """Return where a file belongs; see `place`."""
        return self.place(candidate.header, candidate.values, digest)

    def place(self, header: int, values: Sequence[str], digest: str = "", *, digits: int = 8) -> str:
        """Return where a file belongs, relative to the sorted tree, with forward slashes.

        Parameters
        ----------
        header, values
            The number of the file's header, and its own attributes in the order of `ROW_FIELDS`.
        digest
            Its content's SHA-256 where the SOP Instance UID alone does not name it, or nothing.
        digits
            How long the hashes of its name are.
        """
        namer = self._namers.get((header, digits))
        if namer is None:
            namer = self._namers[header, digits] = self._layout.file_namer(self._facts[header], digits=digits)
        folder = self._folders.get(header)
        if folder is None:
            folder = self._folder(header, values)
            folder = self._renamed.get(folder, folder)
        return f"{folder}/{namer(values, digest)}"

    def _folder(self, header: int, values: Sequence[str]) -> str:
        return self._layout.folder_of(self._facts[header], values)


def plan_tree(
    store: SortStore, names: TreeNames, compare: Comparer, *, watched: Callable[[Iterator[Planned]], Iterator[Planned]]
) -> dict[int, tuple[str, ...]]:
    """Write the plan of a study into the index, and find out which series are incomplete.

    Parameters
    ----------
    store
        The index, with digests for what headers do not tell apart (`SortStore.undigested`).
    compare
        See there.
    watched
        Hands on what is planned, and may count it.

    Returns
    -------
    dict
        Why series are incomplete, by their numbers.
    """
    gaps: dict[int, tuple[str, ...]] = {}
    store.write_plan(
        watched(plan_files(store.candidates(grouped=True), names.target, compare)),
        watched(plan_series(store.members(), names.place, gaps)),
    )
    # Short hashes can meet by chance; long ones do not.
    longer = {}
    for _, files in store.contested_targets():
        for candidate, digest in store.candidates_of(files):
            longer[candidate.file] = names.place(candidate.header, candidate.values, digest, digits=32)
    store.replan(longer)
    return gaps


def _gather_facts(store: SortStore, gap_hours: float, overrides: Mapping[str, VisitOverride]) -> dict[int, Facts]:
    """Work out the facts for each header by its number."""
    read = {number: shared for number, (_, shared) in store.headers().items()}
    correct = correct_patients(read.values(), overrides)
    headers = {number: correct(shared) for number, shared in read.items()}
    acquired = (
        Acquired(shared=headers[number], times=times, date_times=date_times)
        for number, times, date_times in store.acquisition_spans()
    )
    visits = group_visits(study_times(acquired), gap_hours=gap_hours, overrides=overrides)
    by_series: dict[tuple[str, ...], list[SharedHeader]] = defaultdict(list)
    for shared in headers.values():
        by_series[series_key(shared)].append(shared)
    canonical = {key: canonical_header(members) for key, members in by_series.items()}
    return {
        number: Facts(
            series=canonical[series_key(shared)],
            own=shared,
            visit=visits[patient_key(shared), study_key(shared)],
        )
        for number, shared in headers.items()
    }
