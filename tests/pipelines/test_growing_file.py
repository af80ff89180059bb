"""A file that was still arriving when the dump was sorted, and is rewritten in place, loses neither of its contents."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.builders.disks import other_device
from tests.builders.world import make_instance, write_instance
from tests.pipelines.command import contents, luigi, rows_of


def test_a_file_rewritten_in_place_is_placed_beside_what_was_copied_of_it(tmp_path):
    dump = tmp_path / "dump"
    dump.mkdir()
    path = write_instance(dump / "arriving", make_instance())
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with other_device(tmp_path) as elsewhere:
        # On another file system files are copied, so what was placed does not grow with its source.
        workspace = Path(elsewhere) / "workspace"
        assert luigi("SortStudy", "--dump", dump, "--workspace", workspace, cwd=tmp_path).code == 0
        with path.open("r+b") as stream:
            stream.write(whole)
        assert luigi("SortStudy", "--dump", dump, "--workspace", workspace, cwd=tmp_path).code == 0
        expected = sorted(hashlib.sha256(content).hexdigest() for content in (whole, whole[:-40]))
        assert contents(workspace / "identified" / "sorted") == expected
        assert len(rows_of(workspace, "conflicts")) == 2
        assert rows_of(workspace, "duplicates") == []
