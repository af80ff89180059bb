"""The window does what its keys say, and shows what is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest

from tasks.review.manifest import Manifest, merge_entries
from tasks.review.prepare import prepare_series
from tasks.review.ratings import RatingStore, open_store, standing, verify_store
from tasks.review.reading import ReadingProtocol
from tests.review import phantom
from viewer.display import LAYOUTS, Display, Habits, Shown
from viewer.image import from_memory
from viewer.keys import COMMANDS, key_table
from viewer.opening import open_images
from viewer.prefetch import Loader
from viewer.session import Session
from viewer.windowing import measure

if TYPE_CHECKING:
    from viewer.qt.main_window import MainWindow
    from viewer.qt.reading import ReadingWindow

CASES = 12
WAIT_S = 60


def until(qt: Any, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the window did not come to it"
        qt.processEvents()
        time.sleep(0.005)


def press(window: Any, *keys: str) -> None:
    """Press keys as Qt names them, one after the other."""
    from viewer.qt.binding import QtCore, QtGui, QtWidgets

    flags = QtCore.Qt.KeyboardModifier
    for key in keys:
        *held, name = key.split("+") if key != "+" else [key]
        modifiers = flags.NoModifier
        for one in held:
            modifiers |= {"Shift": flags.ShiftModifier, "Ctrl": flags.ControlModifier, "Alt": flags.AltModifier}[one]
        text = name if len(name) == 1 and "Ctrl" not in held else ""
        found = QtGui.QKeySequence(name)[0]
        code = found.key() if hasattr(found, "key") else int(found)  # Qt 6 keeps key and modifiers apart
        for kind in (QtCore.QEvent.Type.KeyPress, QtCore.QEvent.Type.KeyRelease):
            event = QtGui.QKeyEvent(kind, code, modifiers, text if "Shift" in held else text.lower())
            QtWidgets.QApplication.sendEvent(QtWidgets.QApplication.focusWidget() or window, event)


def shown(*, volumes: int = 1, seed: int = 0) -> Shown:
    rng = np.random.default_rng(seed)
    block = rng.integers(1, 900, (volumes, 20, 30, 40)).astype(np.int16)
    image = from_memory(block, affine=np.diag([-1.0, -1.0, 2.0, 1.0]), label="T1w")
    return Shown(image=image, statistics=measure(image), label="T1w")


@pytest.fixture
def window(qt: Any) -> Iterator[MainWindow]:
    from viewer.qt.main_window import MainWindow

    made = MainWindow(Display(Habits()))
    made.show()
    made.setFocus()
    made.show_images([shown(volumes=4), shown(seed=1)], title="K7Q2", group="anat/T1w")
    qt.processEvents()
    yield made
    made.close()


def test_every_key_of_the_table_does_something_and_none_raises(qt: Any, window: MainWindow) -> None:
    reading = {"case-next", "case-previous", "case-skip", "case-list", "undo", "note", "mark", "mark-remove", "quality"}
    for command in COMMANDS:
        if command.name in (*reading, "quit"):
            continue
        assert window.run(command.name), command.name
        qt.processEvents()
        window.planes.settle()
    assert not window.run("nonsense")


def test_arrow_keys_step_slow_and_fast(window: MainWindow) -> None:
    display = window.display
    start = display.slice_number("axial")
    press(window, "Up", "Up")
    assert display.slice_number("axial") == start + 2
    press(window, "Shift+Down")
    assert display.slice_number("axial") == max(start - 8, 0)
    press(window, "PgUp", "PgUp", "PgUp")
    assert display.slice_number("axial") == 19, "it stops at the end"
    press(window, "Tab", "Up")
    assert display.plane == "coronal"
    assert display.slice_number("coronal") == 16


def test_contrast_is_remembered_for_its_sequence(window: MainWindow) -> None:
    display = window.display
    press(window, "Ctrl+Right", "Ctrl+Up")
    chosen = display.window
    window.show_images([shown(seed=5)], group="func/bold")
    assert display.window != chosen
    window.show_images([shown(seed=6)], group="anat/T1w")
    assert display.window == chosen
    again = Habits.from_json(display.habits.to_json())
    assert again.windows == {"anat/T1w": (chosen.low, chosen.high)}
    press(window, "W")
    assert display.window == display.robust_window()


def test_the_background_view_comes_and_goes(window: MainWindow) -> None:
    before = window.display.window
    press(window, "G")
    assert window.display.window.high < before.high / 5
    press(window, "G")
    assert window.display.window == before


def test_mean_and_deviation_are_those_of_numpy(window: MainWindow) -> None:
    source = window.display.shown[0].image.voxels.astype(float)
    press(window, "D")
    np.testing.assert_allclose(window.display.image.voxels[..., 0], source.mean(axis=3), rtol=1e-5)
    press(window, "D")
    np.testing.assert_allclose(window.display.image.voxels[..., 0], source.std(axis=3, ddof=1), rtol=1e-4)
    press(window, "D")
    assert window.display.derived == "volume"


def test_what_is_on_screen_is_the_slice(qt: Any, window: MainWindow) -> None:
    """The pixels of the widget, without smoothing, are the colours of the voxels."""
    habits = window.display.habits
    habits.is_smooth = habits.has_cross = False
    press(window, "S")
    window.resize(1100, 700)
    qt.processEvents()
    widget = window.planes.single
    picture = widget.picture
    assert picture is not None
    grabbed = widget.grab().toImage()
    ratio = grabbed.width() / widget.width()
    rng = np.random.default_rng(2)
    for _ in range(40):
        row, column = (
            int(rng.integers(4, picture.pixels.shape[0] - 4)),
            int(rng.integers(4, picture.pixels.shape[1] - 4)),
        )
        x, y = widget.place_at(row, column)
        assert grabbed.pixel(int(x * ratio), int(y * ratio)) == int(picture.pixels[row, column])
        assert widget.pixel_at(x, y) == pytest.approx((row, column))


def test_a_click_puts_the_crosshair_there_and_the_planes_follow(window: MainWindow) -> None:
    window.planes.ortho["axial"].looked.emit(3.0, 5.0)
    view = window.display.view("axial")
    row, column, _ = view.to_screen(window.display.image.to_index(window.display.place))
    assert (row, column) == pytest.approx((3.0, 5.0))
    sagittal = window.planes.ortho["sagittal"].picture
    assert sagittal is not None
    assert f"sagittal {window.display.slice_number('sagittal') + 1}/" in sagittal.caption


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_shows_pictures(layout: str, qt: Any, window: MainWindow) -> None:
    assert window.run(f"layout-{layout}")
    qt.processEvents()
    window.planes.settle()
    pictures = [one for one in window.planes.findChildren(type(window.planes.single)) if one.isVisible()]
    assert pictures
    for one in pictures:
        assert one.picture is not None
        assert len(np.unique(one.picture.pixels)) > 10


def test_help_is_the_table_of_keys(qt: Any, window: MainWindow) -> None:
    press(window, "F1")
    assert window.help.isVisible()
    for command in COMMANDS:
        assert command.text.replace("'", "&#x27;") in window.help.text()
    press(window, "Esc")
    assert not window.help.isVisible()


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    released = tmp_path_factory.mktemp("reading") / "released"
    made = {}
    for number in range(CASES):
        slices = phantom.instances(phantom.ALL_STORAGES[number], seed=number)
        for dataset in slices:
            dataset.SOPInstanceUID = phantom.uid(number, dataset.InstanceNumber)
        made[f"SUB-{number:04d}/ses-1/001_a"] = slices
    folders = phantom.release(released, made)
    manifest = merge_entries(prepare_series(released, one, released / "review") for one in folders)
    broken = folders[4]
    for path in broken.iterdir():
        path.write_bytes(b"no DICOM any more")
    return manifest, released / "review"


def _store(path: Path) -> RatingStore:
    return open_store(
        path,
        reader="ann",
        protocol=ReadingProtocol(),
        software="0",
        manifest_sha256="",
        now=lambda: datetime(2026, 3, 1, tzinfo=UTC),
        monotonic=time.monotonic,
    )


@pytest.fixture
def reading(qt: Any, study: tuple[Manifest, Path], tmp_path: Path) -> Iterator[ReadingWindow]:
    from viewer.qt.reading import ReadingWindow

    manifest, folder = study
    with _store(tmp_path / "ann.db") as store, Loader(1 << 28) as loader:
        session = Session(manifest, store, ReadingProtocol(), reader="ann")
        session.resume()
        made = ReadingWindow(session, manifest, folder, loader, quality={manifest.entries[0].entry_id: ["a flag"]})
        made.show()
        made.setFocus()
        yield made
        made.close()


def _ready(qt: Any, window: ReadingWindow) -> None:
    until(qt, lambda: window._shown_case == window.session.current.case)


def test_a_study_is_read_by_keyboard_alone(qt: Any, reading: ReadingWindow, tmp_path: Path) -> None:
    for number in range(CASES):
        _ready(qt, reading)
        assert reading.session.position == number
        if number == 4:
            assert reading.display.is_empty
            assert "cannot be" in reading.findings_label.text(), "it says why, and the loop goes on"
        press(reading, "Up", "F5", "123"[number % 3])
    assert reading.session.is_finished
    assert reading.panel.saved.text() == "saved"
    assert "Every case has a verdict" in reading.statusBar().currentMessage()
    verdicts = [one.verdict for one in standing(reading.session._store.events()).values()]
    assert verdicts == ["accept", "query", "reject"] * (CASES // 3)
    assert verify_store(tmp_path / "ann.db").is_sound


def test_masks_of_the_cases_are_laid_over_them(qt: Any, study: tuple[Manifest, Path], tmp_path: Path) -> None:
    from viewer.qt.reading import ReadingWindow

    manifest, folder = study
    first, second, third = (entry for entry in manifest.entries[:3])
    (image,) = open_images([folder / one.path for one in first.instances])
    mask = (np.arange(image.voxels[..., 0].size).reshape(image.shape) % 3 == 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), tmp_path / f"{first.entry_id}.nii.gz")
    (tmp_path / f"{second.entry_id}.nii").write_bytes(b"no image")
    with _store(tmp_path / "ann.db") as store, Loader(1 << 28) as loader:
        session = Session(manifest, store, ReadingProtocol(), reader="ann")
        session.resume(first.entry_id)
        made = ReadingWindow(session, manifest, folder, loader, overlays=tmp_path)
        made.show()
        _ready(qt, made)
        assert made.display.overlay is not None
        assert np.array_equal(made.display.overlay.voxels[..., 0], mask)
        covered = made.display.picture("axial").pixels
        made.run("overlay")
        assert not np.array_equal(covered, made.display.picture("axial").pixels)
        made.run("case-next")
        _ready(qt, made)
        assert made.display.overlay is None
        assert "Nothing is laid over it" in made.statusBar().currentMessage()
        assert not made.display.is_empty, "the case is shown all the same"
        made.session.go(made.session.queue.index(next(one for one in made.session.queue if one.case == third.entry_id)))
        made._case_changed()
        _ready(qt, made)
        assert made.display.overlay is None
        made.close()


def test_notes_are_no_verdicts(qt: Any, reading: ReadingWindow) -> None:
    _ready(qt, reading)
    press(reading, "T")
    note = "1 2 3 unusable, J N B!"
    press(reading, *note)
    assert reading.panel.note.text() == note.lower()
    press(reading, "Return")
    assert reading.session.position == 0
    assert reading.session.now.note == note.lower()
    assert not reading.session.now.verdict
    press(reading, "1")
    assert reading.session.position == 1


def test_a_key_that_is_held_down_gives_one_verdict(qt: Any, reading: ReadingWindow) -> None:
    from viewer.qt.binding import QtCore, QtGui, QtWidgets

    _ready(qt, reading)
    event = QtGui.QKeyEvent(
        QtCore.QEvent.Type.KeyPress, QtCore.Qt.Key.Key_1, QtCore.Qt.KeyboardModifier.NoModifier, "1", True, 3
    )
    QtWidgets.QApplication.sendEvent(reading, event)
    assert reading.session.position == 0
    press(reading, "1")
    assert reading.session.position == 1


def test_undo_brings_the_case_back(qt: Any, reading: ReadingWindow) -> None:
    _ready(qt, reading)
    press(reading, "3")
    _ready(qt, reading)
    press(reading, "U")
    _ready(qt, reading)
    assert reading.session.position == 0
    assert not any(button.isChecked() for button in reading.panel.verdicts.values())


def test_metrics_are_hidden_until_the_verdict(qt: Any, reading: ReadingWindow) -> None:
    _ready(qt, reading)
    press(reading, "E")
    assert not reading.panel.quality.text()
    press(reading, "1", "B", "E")
    _ready(qt, reading)
    press(reading, "E")
    press(reading, "E")
    assert reading.panel.quality.text() == "a flag"


def test_nothing_of_the_case_is_in_the_windows_title(qt: Any, reading: ReadingWindow) -> None:
    _ready(qt, reading)
    assert reading.windowTitle() == "scanward"


def test_keys_of_a_study_may_not_be_those_of_the_viewer() -> None:
    from tasks.errors import UsageError
    from tasks.review.reading import Grade

    with pytest.raises(UsageError, match="is taken"):
        key_table(ReadingProtocol(scale=(Grade(name="good", key="N"), Grade(name="bad", key="9"))))
