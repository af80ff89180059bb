"""The viewer is used from Python: in a script, at a prompt, inside another window, and with the other Qt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pexpect
import pytest

from tasks.errors import OpeningError, UsageError
from tests.conftest import REPOSITORY
from viewer import VolumeView, view

WAIT_S = 90
_VIEW = "import numpy; from viewer import view; w = view(numpy.random.rand(20, 30, 10)); print('MADE', 1 + 1)"
_TIMER = "from viewer.qt.binding import QtCore; n = []; t = QtCore.QTimer(); t.setInterval(5); print('ON', 1 + 1)"
_START = "_ = t.timeout.connect(lambda: n.append(1)); t.start(); print('GO', 1 + 1)"


def _environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "QT_QPA_PLATFORM": "offscreen",
        "HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }


@pytest.mark.parametrize("prompt", ["python", "ipython"])
def test_at_a_prompt_the_window_lives_beside_it(prompt: str, tmp_path: Path) -> None:
    words = ["-q"] if prompt == "python" else ["-m", "IPython", "--no-banner", "--colors=NoColor", "--no-autoindent"]
    shell = pexpect.spawn(
        sys.executable, words, env=_environment(tmp_path), encoding="utf-8", timeout=WAIT_S, cwd=str(tmp_path)
    )
    try:
        shell.expect(">>>" if prompt == "python" else r"In \[")
        for line, answer in ((_VIEW, "MADE 2"), (_TIMER, "ON 2"), (_START, "GO 2")):
            shell.send(line + "\r")
            shell.expect(answer)
        # While the prompt waits Qt's timers go on; asked until they have, at most as long as a test may hang.
        for _ in range(WAIT_S):
            shell.send("print('TICKS', len(n) > 3, w.isVisible())\r")
            shell.expect(r"TICKS (True|False) (True|False)")
            assert shell.match.group(2) == "True"
            if shell.match.group(1) == "True":
                return
        pytest.fail("the window's events stood still")
    finally:
        shell.close(force=True)


def test_in_a_script_it_waits_until_the_window_is_closed(tmp_path: Path) -> None:
    script = tmp_path / "look.py"
    script.write_text(
        "import numpy\nfrom viewer import view\nfrom viewer.qt.application import application\n"
        "from viewer.qt.binding import QtCore, QtWidgets\n"
        "running = application()\n"
        "QtCore.QTimer.singleShot(300, lambda: [print('open'), *[w.close() for w in running.topLevelWidgets()]])\n"
        "view(numpy.zeros((4, 5, 6)))\nprint('closed')\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.stdout == "open\nclosed\n", done.stderr


def test_anything_can_be_looked_at(qt: Any, tmp_path: Path) -> None:
    block = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    image = nibabel.Nifti1Image(block, np.diag([2.0, 3.0, 4.0, 1.0]))
    image.to_filename(tmp_path / "scan.nii.gz")
    for source, count in (
        (block, 1),
        (image, 1),
        (str(tmp_path / "scan.nii.gz"), 1),
        (tmp_path / "scan.nii.gz", 1),
        ([block, image], 2),
    ):
        window = view(source, overlay=(block > 500).astype(np.uint8), title="K7Q2", block=False)
        assert window.isVisible()
        assert len(window.display.shown) == count
        assert window.display.overlay is not None
        window.close()
        qt.processEvents()
    assert window.display.shown[1].image.spacing == pytest.approx((2, 3, 4))
    with pytest.raises(UsageError, match="int cannot be looked at"):
        view(3, block=False)
    with pytest.raises(OpeningError):
        view(tmp_path / "nothing.nii", block=False)


def test_it_can_be_put_into_another_window(qt: Any) -> None:
    from viewer.qt.binding import QtWidgets

    host = QtWidgets.QWidget()
    layout = QtWidgets.QVBoxLayout(host)
    inner = VolumeView(host)
    layout.addWidget(inner)
    layout.addWidget(QtWidgets.QPushButton("a button of the host", host))
    inner.show_volume(np.arange(60, dtype=np.float32).reshape(3, 4, 5), affine=np.eye(4), title="a piece")
    host.show()
    qt.processEvents()
    assert inner.isVisible()
    assert not inner.isWindow()
    before = inner.display.slice_number(inner.display.plane)
    assert inner.run("slice-up")
    assert inner.display.slice_number(inner.display.plane) == before + 1
    with pytest.raises(OpeningError):
        inner.show_volume(np.zeros((2, 2, 2, 2, 2, 2)))
    assert not inner.display.is_empty, "what was there stays"
    host.close()


def test_the_windows_work_with_the_other_qt(tmp_path: Path) -> None:
    code = (
        "import sys, PyQt6.QtWidgets, pytest\n"
        "code = pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/viewer/qt/test_window.py'])\n"
        "from viewer.qt.binding import QtCore\n"
        "sys.exit(code or QtCore.__name__ != 'PyQt6.QtCore' and 'PyQt5' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**_environment(tmp_path), "HOME": os.environ.get("HOME", "")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "failed" not in done.stdout
