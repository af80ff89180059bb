"""A whole run compares the conversions, says what came of it, and does so if, and only if, the study file asks."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.builders.world import make_dump
from tests.deidentify.conversion import SAMPLE, files_of
from tests.pipelines.command import Ended, digests, luigi, run, unfinished, use_secret, write_study

WITHOUT_DCM2NIIX = """
import shutil, sys
sys.modules["dcm2niix"] = None
which = shutil.which
shutil.which = lambda name, *more, **words: None if name == "dcm2niix" else which(name, *more, **words)
from luigi.cmdline import luigi_run
luigi_run(["--module", "pipelines", *sys.argv[1:]])
"""


class Study:
    """Three real series, and made-up files that hold no image."""

    def __init__(self, folder: Path, scanner_data: Path) -> None:
        self.folder, self.dump, self.workspace = folder, folder / "dump", folder / "w"
        self.file = folder / "study.toml"
        for number in (1, 2, 5):
            target = self.dump / str(number)
            target.mkdir(parents=True)
            for path in files_of(scanner_data / SAMPLE[number]):
                shutil.copy(path, target)
        make_dump(self.dump / "made up", instances=2)
        self.settle("auto")

    def settle(self, wish: str, options: str = "") -> None:
        more = f'[deidentify]\ncompare_conversion = "{wish}"\n{options}'
        write_study(self.file, dump=self.dump, workspace=self.workspace, more=more)

    def export(self, *, program: bool = True) -> Ended:
        words = ("DeidentifyStudy", "--study", str(self.file))
        if program:
            return luigi(*words, cwd=self.folder)
        return run([sys.executable, "-c", WITHOUT_DCM2NIIX, *words], cwd=self.folder)

    def conversions(self) -> dict[str, int]:
        """Count series by what came of comparing them; those that were refused before are left out."""
        with closing(sqlite3.connect(self.workspace / "identified" / "export.db")) as ledger:
            rows = ledger.execute("SELECT DISTINCT rtrim(target, replace(target, '/', '')), conversion FROM outcome")
            return dict(Counter(conversion for _, conversion in rows if conversion))

    def report(self) -> dict[str, object]:
        return json.loads((self.workspace / "released" / "export" / "deidentification.json").read_bytes())


@pytest.fixture
def study(tmp_path: Path, scanner_data: Path, dcm2niix: str) -> Study:
    return Study(tmp_path, scanner_data)


def test_a_run_compares_each_series_before_it_leaves(study: Study) -> None:
    use_secret(study.workspace)
    ended = study.export()
    assert ended.code == 0, ended.said
    assert study.conversions() == {"equal": 4}
    conversion = study.report()["conversion"]
    assert (conversion["equal"], conversion["different"], conversion["not_run"]) == (4, 0, 0)
    assert unfinished(study.workspace) == []
    assert "nothing new" in study.export().err
    # Whether the program is there is a matter of the machine: nothing is done again for it.
    assert "De-identified (nothing new)" in study.export(program=False).err

    compared = digests(study.workspace / "released" / "export")
    shutil.rmtree(study.workspace)
    use_secret(study.workspace)
    ended = study.export(program=False)
    assert ended.code == 0, ended.said
    assert study.conversions() == {"not-run": 4}
    alone = digests(study.workspace / "released" / "export")
    assert {name for name, digest in alone.items() if compared[name] != digest} <= {
        "deidentification.json", "deidentification.html",
    }  # fmt: skip
    assert "De-identified (nothing new)" in study.export().err


def test_what_is_demanded_is_done_or_nothing_is(study: Study) -> None:
    study.settle("always")
    refused = study.export(program=False)
    assert refused.code == 7, refused.said
    assert refused.err.splitlines()[0] == (
        "Comparing conversions, for which the study file asks (compare_conversion), needs the package dcm2niix, "
        "which is not installed. Install it with: pip install 'scanward[conversion]'."
    )
    assert "Traceback" not in refused.said
    assert list((study.workspace / "identified" / "sorted").iterdir()) == [], "it is known before anything is done"

    study.settle("never")
    ended = study.export()
    assert ended.code == 0, ended.said
    assert study.conversions() == {"not-run": 4}

    # The wish has changed: what was exported without a comparison is made again with one.
    study.settle("always")
    ended = study.export()
    assert ended.code == 0, ended.said
    assert study.conversions() == {"equal": 4}


@pytest.mark.long
def test_a_profile_that_keeps_no_private_elements_is_compared_on_demand_only(study: Study) -> None:
    bare = 'options = ["retain_longitudinal_modified_dates"]'
    study.settle("auto", bare)
    ended = study.export()
    assert ended.code == 0, ended.said
    assert study.conversions() == {"not-run": 4}

    study.settle("always", bare)
    ended = study.export()
    assert ended.code == 0, ended.said
    told = study.conversions()
    # Slice times, directions and phase encoding stand in private elements.
    assert sum(count for conversion, count in told.items() if conversion.startswith("different: ")) == 3
    assert any("SliceTiming" in conversion for conversion in told)
    assert any(".bvec" in conversion for conversion in told)
    exported = study.workspace / "released" / "export"
    assert len(list(exported.glob("*/*/*/*.dcm"))) == 2
    lines = (study.workspace / "identified" / "lists" / "quarantine.tsv").read_text().splitlines()
    assert Counter(line.split("\t")[2] for line in lines)["audit-conversion"] == 23
