"""The validator that the authors of BIDS publish, as a judge of names and data sets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

NAME_CODES = frozenset(
    (
        *("NOT_INCLUDED", "ENTITY_NOT_IN_RULE", "INVALID_ENTITY_LABEL", "MISSING_REQUIRED_ENTITY", "FILENAME_MISMATCH"),
        *("INVALID_LOCATION", "DATATYPE_MISMATCH", "EXTENSION_MISMATCH", "ALL_FILENAME_RULES_HAVE_ISSUES"),
        *("CASE_COLLISION", "FILENAME_COLLISION"),
    )
)
"""What the validator says of names; its other findings are about contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    code: str
    severity: str
    location: str
    about: str


def validate(folder: Path, *words: str) -> list[Issue]:
    """Return all that the validator finds in a data set; headers of images are read."""
    program = shutil.which("bids-validator-deno", path=os.pathsep.join((sysconfig.get_path("scripts"), os.defpath)))
    if program is None:
        pytest.skip("the program bids-validator-deno is not installed; it is in the extra `test`")
    ended = subprocess.run(
        [program, "--format", "json", "--no-color", *words, os.fspath(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DENO_NO_UPDATE_CHECK": "1"},
    )
    found = json.loads(ended.stdout)["issues"]["issues"]
    return [
        Issue(
            code=one["code"],
            severity=one["severity"],
            location=one.get("location", ""),
            about=str(one.get("subCode") or one.get("issueMessage") or ""),
        )
        for one in found
    ]


def errors(issues: list[Issue]) -> list[Issue]:
    return [issue for issue in issues if issue.severity == "error"]
