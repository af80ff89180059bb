"""From the sorted tree to what is known of each patient: `HarvestIdentifiers`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.base import ChunkTask, StageTask
from pipelines.sort import SortStudy
from tasks.files import write_atomically
from tasks.receipt import Receipt, digest_of
from tasks.sort.store import SortStore
from tasks.worklist import chunk_size, list_path
from tasks.workspace import FINDINGS, INDEX

if TYPE_CHECKING:
    from tasks.deidentify.findings import Findings

# What de-identification needs (pydicom, the standard's tables) is imported where it is used: SortStudy runs without.


class HarvestChunk(ChunkTask):
    """Read one frozen list of files for what points at their patients."""

    def work(self) -> None:
        """Read the files."""
        from tasks.deidentify.findings import gather, write_gathered  # noqa: PLC0415

        files = [(source, identity) for source, identity in json.loads(self.list_path.read_bytes())]
        gathered = gather(files, self.place.sorted_tree, lambda units: self.advance("Collecting", units))
        write_gathered(self.outcome_path, gathered)


class HarvestIdentifiers(StageTask):
    """Collect from every sorted file what points at its patient, so that all files of the patient are searched for it.

    Give --dump DIR and --workspace DIR, or --study FILE.toml.
    """

    stage = "harvest"
    title = "Collected identifiers"
    chunk_task = HarvestChunk
    reads = (INDEX,)
    writes = (FINDINGS,)

    def before(self) -> SortStudy:
        """Return the sorted tree."""
        sort: SortStudy = self.sibling(SortStudy)
        return sort

    def settings_digest(self) -> str:
        """Name the way of collecting."""
        from tasks.deidentify.harvest import HARVEST_VERSION  # noqa: PLC0415

        return digest_of(HARVEST_VERSION)

    def is_still_there(self, receipt: Receipt) -> bool:  # noqa: ARG002 - it is there or not
        """Tell whether what was collected was not taken away."""
        return self.place.findings.exists()

    def work(self) -> Iterator[Any]:
        """Have files read that are new, and merge what they hold."""
        from tasks.deidentify.findings import Findings, read_gathered  # noqa: PLC0415

        wanted = self._sorted_files()
        with Findings(self.place.findings) as findings:
            chunks = self.freeze("Collecting", lambda folder: self._write_lists(folder, wanted, findings))
        yield chunks
        with Findings(self.place.findings) as findings:
            gone = [source for source in findings.known() if source not in wanted]
            findings.keep((read_gathered(chunk.outcome_path) for chunk in chunks), gone)
            digest = digest_of([self.input_digest(), findings.digest()])
            read = sum(len(read_gathered(chunk.outcome_path).files) for chunk in chunks)
        self.finish(counts={"files": len(wanted), "read_now": read}, output_digest=digest)

    def _sorted_files(self) -> dict[str, str]:
        """Return every file of the sorted tree with the identity of its content."""
        with SortStore(self.place.index) as store:
            return {target: str(file) for target, file in store.placements().items()}

    def _write_lists(self, folder: Path, wanted: dict[str, str], findings: Findings) -> list[int]:
        known = findings.known()
        new = sorted((source, identity) for source, identity in wanted.items() if known.get(source) != identity)
        size = chunk_size(self.settings.chunks.index_files, len(new))
        portions = [new[first : first + size] for first in range(0, len(new), size)]
        for chunk, portion in enumerate(portions):
            content = json.dumps(portion).encode("ascii")
            write_atomically(list_path(folder, chunk), content, mode=0o600)
        return [len(portion) for portion in portions]
