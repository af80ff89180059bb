"""The core alone sorts: no extra, so no Qt, nipype, nibabel, Pillow or paramiko on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pydicom.data
import pytest

from tests.conftest import REPOSITORY

NOT_IN_THE_CORE = ("PyQt5", "pyqtgraph", "nipype", "nibabel", "PIL", "paramiko", "pynetdicom", "pytest")
DICOM_FILES = ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm")


@pytest.mark.long
def test_the_core_alone_sorts_a_dump(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    venv, dump, workspace = (tmp_path / name for name in ("the core", "a dump", "a workspace"))

    made = subprocess.run(
        [REPOSITORY / ".ci" / "setup-venv"],
        env={**environment, "VENV": str(venv)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr

    code = f"import importlib.util as u; print([n for n in {NOT_IN_THE_CORE} if u.find_spec(n)])"
    present = subprocess.run([venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert present.stdout.strip() == "[]"

    dump.mkdir()
    for name in DICOM_FILES:
        shutil.copy(str(pydicom.data.get_testdata_file(name, download=False)), dump / name.removesuffix(".dcm"))
    (dump / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 no image")

    command = [venv / "bin" / "luigi", "--module", "pipelines", "SortStudy", "--dump", dump, "--workspace", workspace]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    sorted_files = [path for path in (workspace / "identified" / "sorted").rglob("*.dcm") if path.is_file()]
    assert sorted(path.read_bytes() for path in sorted_files) == sorted(
        (dump / name.removesuffix(".dcm")).read_bytes() for name in DICOM_FILES
    )
