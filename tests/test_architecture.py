"""The rules of the house hold, and each one is reported when it is broken."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from importlinter import api

from tests.conftest import REPOSITORY

PACKAGES = ("pipelines", "tasks", "viewer")
HEAVY = ("PyQt5", "pyqtgraph", "nipype", "nibabel", "paramiko", "pynetdicom")
SCRIPTS = Path(sys.executable).parent

SABOTAGE = {
    "pipelines and viewer stand side by side on tasks": ("viewer/intruder.py", "import pipelines"),
    "sort, deidentify, review and monitor do not know each other; they share index and dicom": (
        "tasks/sort/intruder.py",
        "import tasks.review",
    ),
    "luigi only in pipelines": ("tasks/intruder.py", "def late():\n    import luigi"),
    "Qt only in viewer.qt, loaded lazily by viewer.__main__": ("viewer/painter.py", "import PyQt5"),
    "paramiko only in tasks.monitor.ssh": ("pipelines/intruder.py", "def late():\n    import paramiko"),
    "pynetdicom only in tasks.monitor.dicom_echo": ("tasks/dicom/intruder.py", "import pynetdicom"),
    "smtplib only in tasks.monitor.mail": ("tasks/index/intruder.py", "from smtplib import SMTP"),
    "nipype only in tasks.review.nodes": ("tasks/review/intruder.py", "import nipype.algorithms"),
    "pydantic only in tasks.config": ("tasks/settings.py", "import pydantic"),
    "settings and logging are opened by pipelines and viewer.__main__; below, functions take plain values": (
        "tasks/sort/curious.py",
        "from tasks import config",
    ),
    "the key map is opened by pipelines only": ("tasks/deidentify/curious.py", "from tasks.deidentify import keymap"),
    "the audit shares no code with what it checks": (
        "tasks/deidentify/audit/words.py",
        "from tasks.deidentify import profile",
    ),
}
"""For every contract a line of code that breaks it, and the module that says it."""

BANNED = {
    "datetime.now": "from datetime import datetime\nx = datetime.now(tz=None)\n",
    "datetime.utcnow": "import datetime\nx = datetime.datetime.utcnow()\n",
    "date.today": "from datetime import date\nx = date.today()\n",
    "time.time": "import time\nx = time.time()\n",
    "time.time_ns": "from time import time_ns\nx = time_ns()\n",
    "getuser": "import getpass\nx = getpass.getuser()\n",
    "environ": "import os\nx = os.environ['HOME']\n",
    "getenv": "from os import getenv\nx = getenv('HOME')\n",
}


def _run(*command: str | Path, cwd: Path = REPOSITORY, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, **more)


def _contracts() -> list[str]:
    options = api.read_configuration(str(REPOSITORY / "pyproject.toml"))
    return [contract["name"] for contract in options["contracts_options"]]


def test_the_contracts_are_kept() -> None:
    done = _run(SCRIPTS / "lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(_contracts())} kept, 0 broken" in done.stdout


def test_each_contract_is_reported_when_broken(tmp_path: Path) -> None:
    assert set(SABOTAGE) == set(_contracts())
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    for module, line in SABOTAGE.values():
        with (tmp_path / module).open("a") as stream:
            stream.write(f"\n{line}\n")
    done = _run(SCRIPTS / "lint-imports", "--no-cache", cwd=tmp_path)
    report = " ".join(done.stdout.split())
    assert done.returncode == 1, done.stdout + done.stderr
    for name in SABOTAGE:
        assert f"{name} BROKEN" in report


@pytest.mark.parametrize("code", BANNED.values(), ids=BANNED)
def test_clock_user_and_environment_are_read_in_two_modules_only(code: str) -> None:
    def findings(module: str) -> str:
        options = ("--select", "TID251", "--output-format", "concise", "--no-cache", "--stdin-filename", module, "-")
        return _run(SCRIPTS / "ruff", "check", *options, input=code).stdout

    for module in ("tasks/dicom/elements.py", "tasks/config.py", "pipelines/sort.py", "viewer/session.py"):
        assert "TID251" in findings(module)
    for module in ("pipelines/base.py", "viewer/__main__.py"):
        assert "TID251" not in findings(module)


def _functions_taking_both(source: str, *, names: tuple[str, str] = ("IndexRow", "ExportRow")) -> list[str]:
    """List the functions of a module in whose parameters both types occur, alone or inside another type."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            text = " ".join(ast.unparse(p.annotation) for p in parameters if p is not None and p.annotation)
            if set(re.findall(r"\w+", text)).issuperset(names):
                found.append(node.name)
    return found


def test_no_function_takes_an_identifying_row_and_a_clean_one() -> None:
    guilty = "def join(rows: list[IndexRow], *, by: dict[str, 'row.ExportRow']) -> None: ...\n"
    innocent = "def clean(row: IndexRow) -> ExportRow: ...\n"
    assert _functions_taking_both(guilty + innocent) == ["join"]

    sources = {path: path.read_text("utf-8") for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")}
    for name in ("IndexRow", "ExportRow"):
        assert sum(f"class {name}" in source for source in sources.values()) == 1, f"one class {name}"
    for path, source in sources.items():
        assert _functions_taking_both(source) == [], path


def _loaded_after(code: str, cwd: Path) -> set[str]:
    """Run code in a fresh interpreter away from the repository; give the top-level packages it loaded."""
    tail = "\nimport sys\nprint('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    done = _run(sys.executable, "-c", code + tail, cwd=cwd, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_what_luigi_loads_is_light(tmp_path: Path) -> None:
    loaded = _loaded_after("import pipelines", tmp_path)
    assert "luigi" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("task", ["SortStudy", "DeidentifyStudy", "PrepareReview"])
def test_the_command_line_is_light(task: str, tmp_path: Path) -> None:
    code = f"""
import contextlib, luigi.cmdline
with contextlib.suppress(SystemExit):
    luigi.cmdline.luigi_run(["--module", "pipelines", "{task}", "--help"])
"""
    loaded = _loaded_after(code, tmp_path)
    assert {"pipelines", "tasks"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_viewer_starts_light(tmp_path: Path) -> None:
    loaded = _loaded_after("import viewer.__main__", tmp_path)
    assert loaded.isdisjoint({*HEAVY, "luigi", "pipelines"})


def test_tests_and_configs_are_not_importable(tmp_path: Path) -> None:
    code = """
import importlib.util, json
found = {}
for name in ("pipelines", "tasks", "viewer", "tests", "configs", "benchmarks"):
    spec = importlib.util.find_spec(name)
    found[name] = [spec.origin, *spec.submodule_search_locations] if spec else []
print(json.dumps(found))
"""
    done = _run(sys.executable, "-c", code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    found = json.loads(done.stdout)
    for name in PACKAGES:
        assert found[name][0] == str(REPOSITORY / name / "__init__.py")
    for name in ("tests", "configs", "benchmarks"):
        assert not any(str(REPOSITORY) in str(place) for place in found[name])


def test_the_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    done = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")

    checked = _run(SCRIPTS / "check-wheel-contents", "--toplevel", ",".join(PACKAGES), wheel, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout

    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == wanted
