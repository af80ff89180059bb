"""What tests of several hosts and of a cluster compare with."""

from __future__ import annotations

import time

import pytest

from tests.builders.world import make_mixed_dump
from tests.pipelines.command import luigi_words, run, use_secret, write_study
from tests.pipelines.hosts import Alone, made_of


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Make a dump of some 350 files with something of everything, and run the whole graph on it."""
    base = tmp_path_factory.mktemp("alone")
    dump, workspace = base / "dump", base / "w"
    make_mixed_dump(dump, series=3, instances=16)
    use_secret(workspace)
    study = write_study(workspace.with_suffix(".toml"), dump=dump, workspace=workspace, files=40, series=1)
    began = time.monotonic()
    ended = run(luigi_words("PrepareReview", "--study", study), cwd=base)
    assert ended.code == 0, ended.said
    found = made_of(workspace)
    assert len(found[0]) > 300
    assert len(found[1]) > 300
    return Alone(dump=dump, sorted_tree=found[0], released=found[1], seconds=time.monotonic() - began)
