"""How far the work is: counters shared by worker processes, shown as bars in a terminal, as plain lines elsewhere."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence

_LINE_EVERY_SECONDS = 10.0
_LOOK_EVERY_SECONDS = 0.2
_REFRESH_EVERY_SECONDS = 3.0


class ProgressBoard:
    """Counters of done and expected units for each stage, shared with every process forked after it was made.

    Parameters
    ----------
    stages
        Each stage's name, as shown to a person.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = tuple(stages)
        self._counters = multiprocessing.Array("Q", 2 * len(self._stages))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._refresh: Callable[[], None] | None = None
        self._refreshed = 0.0

    def expect(self, stage: str, total: int) -> None:
        """Say how many units a stage has to do; starts its count afresh."""
        place = 2 * self._stages.index(stage)
        with self._counters.get_lock():
            self._counters[place] = 0
            self._counters[place + 1] = total

    def advance(self, stage: str, units: int = 1) -> None:
        """Say that some units are done."""
        place = 2 * self._stages.index(stage)
        with self._counters.get_lock():
            self._counters[place] += units

    def put(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is that is counted elsewhere."""
        place = 2 * self._stages.index(stage)
        with self._counters.get_lock():
            self._counters[place], self._counters[place + 1] = done, total

    def read(self, stage: str) -> tuple[int, int]:
        """Return the units done and expected."""
        place = 2 * self._stages.index(stage)
        with self._counters.get_lock():
            return self._counters[place], self._counters[place + 1]

    def start(self, *, terminal: bool, logger: logging.Logger, refresh: Callable[[], None] | None = None) -> None:
        """Begin to show the counters: as bars on a terminal's standard error, else as a line now and then.

        `refresh` is called now and then before they are shown, to put in what is counted elsewhere.
        """
        if self._thread is None:
            self._refresh = refresh
            show = self._show_bars if terminal else self._show_lines
            self._thread = threading.Thread(target=show, args=(logger,), name="progress", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Show the last state and end."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join(timeout=2)
            self._thread = None

    def _wait(self) -> bool:
        """Wait a moment, get the counters from elsewhere if it is time to, and tell whether all work ends."""
        ended = self._stop.wait(_LOOK_EVERY_SECONDS)
        if self._refresh is not None and (ended or time.monotonic() - self._refreshed >= _REFRESH_EVERY_SECONDS):
            self._refresh()
            self._refreshed = time.monotonic()
        return ended

    def _show_lines(self, logger: logging.Logger) -> None:
        """Say where each stage is every few seconds, and once when it is done or all work ends."""
        said: dict[str, int] = {}
        began = last = time.monotonic()
        ended = False
        while not ended:
            ended = self._wait()
            now = time.monotonic()
            due = ended or now - last >= _LINE_EVERY_SECONDS
            last = now if due else last
            for stage in self._stages:
                done, total = self.read(stage)
                if total and done != said.get(stage, 0) and (due or done >= total):
                    said[stage] = done
                    logger.info("%s: %s of %s (%.0f s)", stage, f"{done:,}", f"{total:,}", now - began)

    def _show_bars(self, _: logging.Logger) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        bars: dict[str, TaskID] = {}
        with Progress(*columns, console=Console(stderr=True)) as progress:
            ended = False
            while not ended:
                ended = self._wait()
                for stage in self._stages:
                    done, total = self.read(stage)
                    if not total:
                        continue
                    if stage not in bars:
                        bars[stage] = progress.add_task(stage, total=total, rate="")
                    bar = bars[stage]
                    speed = progress.tasks[progress.task_ids.index(bar)].speed
                    progress.update(bar, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")
