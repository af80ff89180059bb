"""How a stage's chunks are dealt among several hosts: `DealWork` freezes the lists, `DoPortion` works through some.

Every process asks for the same portions before anybody knows how many chunks there will be; one may turn out empty.
"""

from __future__ import annotations

import time
from typing import Any

import luigi

from pipelines.base import ChunkTask, StageTask, StudyTask
from tasks.worklist import is_frozen, read_frozen

_TELL_EVERY_SECONDS = 2.0


class _PartOfStage(StudyTask):
    """What belongs to a stage, by its name and by the run that asks for it."""

    stage = luigi.Parameter()
    asked_by = luigi.Parameter()

    @property
    def whole(self) -> StageTask:
        """The stage itself."""
        task: StageTask = self.sibling(StageTask.kinds[self.stage], asked_by=self.asked_by)
        return task


class DealWork(_PartOfStage):
    """Freeze the work lists of a stage; asked for by the stage itself where several hosts work."""

    def requires(self) -> Any:
        """Ask for the stage before."""
        return self.whole.before() or []

    def complete(self) -> bool:
        """Tell whether the lists are frozen, or of no use any more."""
        whole = self.whole
        return whole.stands() or (whole.input_digest() != "" and is_frozen(whole.plan_folder))

    def work(self) -> None:
        """Freeze the lists."""
        self.whole.deal()


class DoPortion(_PartOfStage):
    """Work through every so-manieth chunk of a stage; asked for by the stage itself where several hosts work.

    Attributes
    ----------
    portion, of
        Which portion this is, counted from zero, and how many there are.
    """

    portion = luigi.IntParameter()
    of = luigi.IntParameter()

    _done = 0
    _total = 0
    _began = 0.0
    _told = 0.0

    def requires(self) -> DealWork:
        """Ask for the lists."""
        deal: DealWork = self.sibling(DealWork, stage=self.stage)
        return deal

    def process_resources(self) -> dict[str, int]:
        """Return one place among those who write to the file server."""
        return {"writers": 1} if self.settings.hosts.writers else {}

    def chunks(self) -> list[ChunkTask]:
        """Return the chunks of this portion."""
        whole = self.whole
        chunks: list[ChunkTask] = whole.chunks(whole.plan_folder)[self.portion :: self.of]
        return chunks

    def complete(self) -> bool:
        """Tell whether all chunks of the portion are done."""
        whole = self.whole
        if whole.stands():
            return True
        return self._is_dealt() and all(chunk.complete() for chunk in self.chunks())

    def _is_dealt(self) -> bool:
        whole = self.whole
        return whole.input_digest() != "" and is_frozen(whole.plan_folder)

    def work(self) -> None:
        """Do the chunks that nobody has done."""
        whole = self.whole
        if whole.stands():
            return
        self.wait_until(self._is_dealt, whole.title)
        units = read_frozen(whole.plan_folder).units[self.portion :: self.of]
        chunks = self.chunks()
        self._began, self._total = time.monotonic(), sum(units)
        for number, (chunk, count) in enumerate(zip(chunks, units, strict=True), 1):
            before = self._done
            if not is_frozen(whole.plan_folder):
                # This host was taken for dead, and others have ended the stage meanwhile.
                return
            if not chunk.complete():
                chunk.told = lambda done, number=number: self._tell(done, f"chunk {number} of {len(chunks)}")
                chunk.work()
            self._done = before + count
        if chunks:
            self._told = 0.0
            self._tell(0, "done")

    def _tell(self, units: int, where: str) -> None:
        """Show on Luigi's page how far the portion is, and how fast: figures alone."""
        self._done += units
        moment = time.monotonic()
        if moment - self._told < _TELL_EVERY_SECONDS:
            return
        self._told = moment
        self.show_percentage(self._done, self._total)
        rate = self._done / max(moment - self._began, 1e-3)
        if self.set_status_message is not None:
            self.set_status_message(f"{where}: {self._done:,} of {self._total:,}, {rate:,.0f} a second")


def portions_of(whole: StageTask) -> list[DoPortion]:
    """Return what a stage asks for where several hosts work."""
    number = whole.settings.hosts.portions
    return [whole.sibling(DoPortion, stage=whole.stage, portion=portion, of=number) for portion in range(number)]
