"""The reading loop in the window: the session's cases come on screen, keys give verdicts, the next case is ready."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.review.manifest import Entry, Manifest
from viewer.display import Display, Habits, Shown, Spot
from viewer.keys import key_table
from viewer.prefetch import Fault, Loaded, Loader, Request
from viewer.qt.binding import QtCore, QtWidgets
from viewer.qt.case_list import CaseList
from viewer.qt.main_window import MainWindow
from viewer.qt.reading_panel import ReadingPanel
from viewer.session import Session, TooSoon

PREFETCHED = 3
"""How many of the next cases are opened ahead."""

_WATCH_MS = 500
_PREFIXES = ("rate:", "tick:")
_OVERLAYS = (".nii.gz", ".nii", ".mgz", ".mgh", ".npy")
_NOTHING_OVER = Fault(key="", kind="", text="")
_KINDS = QtCore.QEvent.Type
_DOING = frozenset({_KINDS.MouseMove, _KINDS.MouseButtonPress, _KINDS.Wheel, _KINDS.KeyPress})


class ReadingWindow(MainWindow):
    """A window in which one reader reads a manifest.

    Parameters
    ----------
    session
        Which case comes next, and what is said of it; resumed already.
    manifest, folder
        The manifest, and the folder it lies in.
    loader
        Opens cases ahead; closed with the window.
    habits
        What is remembered from sitting to sitting.
    quality
        For each entry what was measured and what stands out, in lines.
    screenshots
        The folder for pictures of the window, or None.
    overlays
        The folder with a mask or segmentation for each case, named by its entry id, or None.

    Attributes
    ----------
    waits
        Milliseconds from each change of case to its first picture on screen.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        folder: Path,
        loader: Loader,
        *,
        habits: Habits | None = None,
        quality: Mapping[str, Sequence[str]] | None = None,
        screenshots: Path | None = None,
        overlays: Path | None = None,
    ) -> None:
        super().__init__(
            Display(habits), title="scanward", commands=key_table(session.protocol), screenshots=screenshots
        )
        self.session = session
        self.waits: list[float] = []
        self._entries = {entry.entry_id: entry for entry in manifest.entries}
        self._together = {one: group["entries"] for group in manifest.time_points() for one in group["entries"]}
        self._folder = folder
        self._loader = loader
        self._quality = quality or {}
        self._overlays = overlays
        self._shown_case = ""
        self._held: list[str] = []
        self._asked_at: float | None = time.perf_counter()
        self._wants_quality = False
        self.panel = ReadingPanel(session.protocol, self.side)
        self.side_layout.insertWidget(self.side_layout.count() - 1, self.panel)
        self.panel.rated.connect(self.rate)
        self.panel.ticked.connect(self.tick)
        self.panel.noted.connect(self.finish_note)
        self.panel.note.editingFinished.connect(lambda: self.finish_note(self.panel.note.text()))
        self._notifier = QtCore.QSocketNotifier(loader.fileno(), QtCore.QSocketNotifier.Type.Read, self)
        self._notifier.activated.connect(lambda *_: self._poll())
        # A process that hangs does not report: it is looked after from here.
        self._watch = QtCore.QTimer(self)
        self._watch.timeout.connect(self._poll)
        self._watch.start(_WATCH_MS)
        self.add_commands(
            {
                "case-next": lambda: self._go(session.next),
                "case-previous": lambda: self._go(session.previous),
                "case-skip": lambda: self._go(session.skip),
                "undo": lambda: self._go(session.undo),
                "case-list": self.choose_case,
                "note": self.start_note,
                "mark": self.mark,
                "mark-remove": self.remove_mark,
                "quality": self.toggle_quality,
            },
            self._graded,
        )
        QtWidgets.QApplication.instance().installEventFilter(self)
        self._case_changed()

    # -- cases ---------------------------------------------------------------------------------------------------------

    def _go(self, step: Any) -> None:
        self._asked_at = time.perf_counter()
        before = self.session.current
        step()
        if self.session.current != before:
            self._case_changed()
        else:
            self._asked_at = None
            self._refresh_panel()

    def _request(self, entry: Entry) -> Request:
        paths = tuple(self._folder / record.path for record in entry.instances)
        return Request(key=entry.entry_id, paths=paths)

    def _requests(self, case: str) -> list[Request]:
        """Ask for a case, and for what is laid over it."""
        overlay = self._overlay_of(case)
        own = self._request(self._entries[case])
        return [own] if overlay is None else [own, Request(key=_over(case), paths=(overlay,))]

    def _overlay_of(self, case: str) -> Path | None:
        if self._overlays is None:
            return None
        return next((path for ending in _OVERLAYS if (path := self._overlays / f"{case}{ending}").exists()), None)

    def _case_changed(self) -> None:
        """Ask for the case and those after it, and show it if it is there."""
        self._wants_quality = False
        wanted = [self.session.current.case]
        if self.display.habits.layout == "times":
            wanted += [one for one in self._together.get(wanted[0], []) if one not in wanted]
        wanted += [one for one in self.session.upcoming(PREFETCHED) if one not in wanted]
        self._loader.want([request for one in wanted for request in self._requests(one)])
        self._shown_case = ""
        self._poll()
        if not self._shown_case:
            self.show_nothing("Opening ...", title=self._title())
        self._refresh_panel()

    def _title(self) -> str:
        return self.session.title(self.session.current)

    def _poll(self) -> None:
        """Take what the loader has ready."""
        self._loader.poll()
        case = self.session.current.case
        if self._shown_case == case:
            self._take_times()
            return
        found = self._loader.get(case)
        over = self._loader.get(_over(case)) if self._overlay_of(case) is not None else _NOTHING_OVER
        if found is None or over is None:
            return
        self._hold([case, _over(case)])
        self._shown_case = case
        self.session.begin_look()
        if isinstance(found, Fault):
            self.show_nothing(found.text, title=self._title())
        else:
            overlay = over.images[0] if isinstance(over, Loaded) else None
            self.show_images(self._shown(found), title=self._title(), group=self.session.entry.group, overlay=overlay)
            if over is not _NOTHING_OVER and isinstance(over, Fault):
                self.statusBar().showMessage(f"Nothing is laid over it: {over.text}")
            self._show_marks()
            self._take_times()
        self._refresh_panel()
        if self._asked_at is not None:
            self.planes.repaint()
            self.waits.append((time.perf_counter() - self._asked_at) * 1000)
            self._asked_at = None

    def _shown(self, found: Loaded, label: str = "") -> list[Shown]:
        return [
            Shown(image=image, statistics=statistics, label=label)
            for image, statistics in zip(found.images, found.statistics, strict=True)
        ]

    def _hold(self, keys: list[str]) -> None:
        for key in keys:
            self._loader.hold(key)
        for key in self._held:
            self._loader.release(key)
        self._held = keys

    def _take_times(self) -> None:
        """Put the other visits beside the case once they are there."""
        together = self._together.get(self._shown_case, [])
        if self.display.habits.layout != "times" or self.display.times or not together:
            return
        found = [self._loader.get(one) for one in together]
        if any(one is None for one in found):
            return
        self._hold([self._shown_case, _over(self._shown_case), *together])
        times = []
        for number, (one, loaded) in enumerate(zip(together, found, strict=True), 1):
            label = f"time {number}" if self.session.protocol.is_blinded else self._entries[one].visit
            if one == self._shown_case:
                times.append(replace(self.display.shown[0], label=label))
            elif isinstance(loaded, Loaded):
                times += self._shown(loaded, label)[:1]
        self.display.set_times(times)
        self.planes.refresh()

    def run(self, name: str) -> bool:
        """Do a command; the other visits are fetched when they are asked for."""
        self.session.activity()
        done = super().run(name)
        if name == "layout-times" and not self.display.times and self._shown_case in self._together:
            wanted = [self._shown_case, *self._together[self._shown_case]]
            self._loader.want([self._request(self._entries[one]) for one in dict.fromkeys(wanted)])
            self._poll()
        return done

    # -- verdicts ------------------------------------------------------------------------------------------------------

    def _graded(self, name: str) -> bool:
        if not name.startswith(_PREFIXES):
            return False
        (self.rate if name.startswith("rate:") else self.tick)(name[5:])
        return True

    def rate(self, verdict: str) -> None:
        """Give a verdict and go on."""
        if self._shown_case != self.session.current.case:
            self.statusBar().showMessage("The case is not on screen yet.", 3000)
            self._refresh_panel()
            return
        self.finish_note(self.panel.note.text())
        if not self.session.is_saved:  # the verdict must not clear what says that the note was not kept
            return
        shows_quality = bool(self.panel.quality.text())
        outcome: list[Any] = []
        self._go(lambda: outcome.append(self.session.rate(verdict, self.display.state(quality_shown=shows_quality))))
        if isinstance(outcome[0], TooSoon):
            self.statusBar().showMessage(f"Look for {outcome[0].seconds_left:.0f} more seconds.", 3000)
        elif self.session.is_finished:
            self.statusBar().showMessage("Every case has a verdict. Everything is saved.")

    def tick(self, name: str) -> None:
        """Tick an artefact, or take the tick away."""
        self.session.toggle_artefact(name)
        self._refresh_panel()

    def start_note(self) -> None:
        """Let the reader write."""
        self.panel.note.setFocus()

    def finish_note(self, text: str) -> None:
        """Keep what was written."""
        self.session.note(text.strip())
        if not self.session.is_saved:  # what was written stays in its field
            self.panel.show_saved(f"NOT SAVED: {self.session.fault}", is_saved=False)
            return
        if self.panel.note.hasFocus():
            self.setFocus()
        self._refresh_panel()

    def mark(self) -> None:
        """Mark the voxel under the crosshair, and ask for a note on it."""
        if self.display.is_empty:
            return
        x, y, z = (round(float(one), 3) for one in self.display.place)
        text, is_meant = QtWidgets.QInputDialog.getText(self, "Mark", "Note on this place (may be empty):")
        if is_meant:
            self.session.add_mark((x, y, z), self.display.volume, text.strip())
            self._show_marks()
            self._refresh_panel()

    def remove_mark(self) -> None:
        """Take the mark away that is nearest to the crosshair."""
        marks = self.session.now.marks
        if marks:
            nearest = min(marks, key=lambda one: float(np.linalg.norm(np.array(marks[one].mm) - self.display.place)))
            self.session.remove_mark(nearest)
            self._show_marks()
            self._refresh_panel()

    def _show_marks(self) -> None:
        marks = self.session.now.marks.values()
        self.display.marks = tuple(Spot(mm=mark.mm, volume=mark.volume, text=mark.text) for mark in marks)
        self.planes.refresh()

    def toggle_quality(self) -> None:
        """Show metrics and flags, or hide them; before the verdict only where the study allows it."""
        if self.session.protocol.hides_quality and not self.session.now.verdict:
            self.statusBar().showMessage("Metrics and flags are shown once the verdict is given.", 3000)
            return
        self._wants_quality = not self._wants_quality
        self._refresh_panel()

    def choose_case(self) -> None:
        """Let the reader choose a case from the list."""
        lines = []
        for one in self.session.queue:
            state = self.session.state(one)
            lines.append(
                (self.session.title(one), self.session.standing_of(one).verdict if state == "rated" else state)
            )
        chooser = CaseList(lines, self.session.position, self)
        if (chooser.exec_ if hasattr(chooser, "exec_") else chooser.exec)() and chooser.chosen >= 0:
            self._go(lambda: self.session.go(chooser.chosen))

    # -- words ---------------------------------------------------------------------------------------------------------

    def _refresh_panel(self) -> None:
        session, now = self.session, self.session.now
        marks = [f"mark {' '.join(f'{one:.1f}' for one in mark.mm)} {mark.text}".strip() for mark in now.marks.values()]
        self.panel.show_standing(now.verdict, now.artefacts, now.note, marks)
        self.panel.show_quality(self._quality.get(session.current.case, ()) if self._wants_quality else ())
        progress = session.progress
        words = [f"case {session.position + 1} of {progress.total}"]
        if session.state(session.current) == "stale":
            words.append("the image changed since its verdict")
        words += [
            f"{count} {what}" for count, what in ((progress.stale, "changed"), (progress.skipped, "put off")) if count
        ]
        if progress.remaining_s is not None and progress.per_case_s is not None:
            words.append(f"{progress.per_case_s:.0f} s a case, {progress.remaining_s / 60:.0f} min left")
        self.panel.show_progress(progress.done, progress.total, "; ".join(words))
        if session.fault is not None:
            self.panel.show_saved(f"NOT SAVED: {session.fault}", is_saved=False)
        else:
            self.panel.show_saved("saved", is_saved=True)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Count the time in which the reader does anything anywhere in the window."""
        if event.type() in _DOING:
            self.session.activity()
        return bool(super().eventFilter(watched, event))

    def closeEvent(self, event: Any) -> None:
        """End the sitting; everything is saved already."""
        QtWidgets.QApplication.instance().removeEventFilter(self)
        self._watch.stop()
        self._notifier.setEnabled(False)
        self.session.close()
        self._loader.close()
        super().closeEvent(event)


def _over(case: str) -> str:
    """Name what is laid over a case; no entry id holds a space."""
    return f"{case} overlay"
