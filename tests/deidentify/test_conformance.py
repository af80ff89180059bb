"""A foreign judge, dciodvfy of dicom3tools, finds no error in an export that the original did not have."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.profile import DEFAULT_PROFILE
from tasks.deidentify.rewrite import RefusalError, rewrite
from tests.builders.demo_dump import FileKind, write_demo_dump

SUBJECT = Subject(pseudonym="SUB-0001", shift_days=-700)


def errors(program: str, path: Path) -> set[str]:
    """Return the judge's errors without the values they quote."""
    done = subprocess.run([program, "-new", path], capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode("latin-1").splitlines()
    return {re.sub(r"<[^>]*>$|'[^']*'|=\s*<[^>]*>", "", line) for line in said if line.startswith("Error")}


def new_errors(program: str, source: Path, folder: Path) -> set[str] | None:
    """De-identify one file and return what the judge says of it and did not say of its source; None if refused."""
    try:
        result = rewrite(source.read_bytes(), profile=DEFAULT_PROFILE, identity=Identity(bytes(32)), subject=SUBJECT)
    except RefusalError:
        return None
    export = folder / "export.dcm"
    export.write_bytes(result.content)
    return errors(program, export) - errors(program, source)


def images(root: Path, *, a_folder: int) -> Iterator[Path]:
    """Yield some files of each folder."""
    for folder in sorted({path.parent for path in root.rglob("*") if path.is_file()}):
        yield from [path for path in sorted(folder.iterdir()) if path.is_file()][:a_folder]


@pytest.mark.parametrize("a_folder", [1, pytest.param(25, marks=pytest.mark.long)])
def test_scanner_files_get_no_new_error(a_folder, scanner_data, program, tmp_path):
    judge = program("dciodvfy")
    found = {path: new_errors(judge, path, tmp_path) for path in images(scanner_data, a_folder=a_folder)}
    judged = {path: said for path, said in found.items() if said is not None}
    assert len(judged) >= 15
    assert {path.name: said for path, said in judged.items() if said} == {}


def test_synthetic_images_get_no_new_error(program, tmp_path):
    judge = program("dciodvfy")
    contents = write_demo_dump(tmp_path / "dump", small=True)
    chosen = {}
    for file in contents.of_kind(FileKind.PATIENT_IMAGE):
        chosen[file.patient, file.series, file.enhanced] = tmp_path / "dump" / file.name
    assert len(chosen) >= 6
    assert {key: new_errors(judge, path, tmp_path) for key, path in chosen.items()} == {key: set() for key in chosen}
