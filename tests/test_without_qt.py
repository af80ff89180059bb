"""Everything but the windows is loaded, and works, where Qt is not installed."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY

NO_QT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("PyQt5", "PyQt6", "PySide6", "PySide2", "pyqtgraph"):
            raise ImportError(f"no {name} here", name=name)
sys.meta_path.insert(0, Refuse())
"""


def _run(code: str, cwd: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NO_QT + code, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )


def _modules(package: str) -> list[str]:
    found = pkgutil.walk_packages([str(REPOSITORY / package)], f"{package}.")
    return [one.name for one in found if not one.name.startswith("viewer.qt") and not one.name.endswith("__main__")]


@pytest.mark.parametrize("package", ["tasks", "viewer", "pipelines"])
def test_every_module_loads(package: str, tmp_path: Path) -> None:
    names = _modules(package)
    assert len(names) > 5
    done = _run(f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)", tmp_path)
    assert done.returncode == 0, done.stderr


def test_pictures_are_drawn_and_a_window_says_what_is_missing(tmp_path: Path) -> None:
    image = tmp_path / "head.npy"
    np.save(image, np.arange(20 * 30 * 40, dtype=np.int16).reshape(20, 30, 40))
    command = "from viewer.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = _run(command, tmp_path, "render", image, "--kind", "ortho", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["pictures"] == ["head_ortho.png"]
    looked = _run(command, tmp_path, "view", image)
    assert looked.returncode == 7
    assert "pip install 'scanward[viewer]'" in looked.stderr
    code = """
import numpy
from tasks.errors import MissingPackageError
from viewer import view
try:
    view(numpy.zeros((3, 4, 5)))
except MissingPackageError:
    print("told")
"""
    from_python = _run(code, tmp_path)
    assert from_python.stdout == "told\n", from_python.stderr
