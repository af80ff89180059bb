"""A receipt is believed only if it reads as it was written."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.receipt import Receipt, digest_of, read_receipt, write_receipt
from tests import strategies  # noqa: F401 - sets hypothesis up

RECEIPT = Receipt(
    stage="sort",
    software="0.1.0",
    input_digest="abcd",
    settings_digest="ef01",
    counts={"files_seen": 12, "placed": 7},
    lists={"rejects": "identified/lists/rejects.tsv"},
    finished="2026-01-01T00:00:00+00:00",
    facts={"reasons": {"ä": 1}},
)


def test_counts_stay_in_the_order_told(tmp_path: Path) -> None:
    told = replace(RECEIPT, counts={"z": 1, "a": 2, "m": 3})
    write_receipt(tmp_path, told)
    found = read_receipt(tmp_path, "sort")
    assert found == told
    assert list(found.counts) == ["z", "a", "m"]
    assert stat.S_IMODE((tmp_path / "sort.json").stat().st_mode) == 0o600


TEXTS = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXTS, st.integers(), max_size=4), st.dictionaries(TEXTS, JSON, max_size=4), TEXTS)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, counts: dict[str, int], facts: dict[str, object], digest: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    receipt = replace(RECEIPT, counts=counts, facts=facts, input_digest=digest)
    write_receipt(folder, receipt)
    assert read_receipt(folder, "sort") == receipt


def test_any_flipped_bit_makes_it_no_receipt(tmp_path: Path) -> None:
    """Or leaves what it says: the case of a letter in an escape means nothing."""
    write_receipt(tmp_path, RECEIPT)
    path = tmp_path / "sort.json"
    whole = path.read_bytes()
    survived = 0
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            found = read_receipt(tmp_path, "sort")
            assert found is None or found == RECEIPT, (place, bit)
            survived += found is not None
    assert survived <= 4


def test_any_cut_makes_it_no_receipt(tmp_path: Path) -> None:
    write_receipt(tmp_path, RECEIPT)
    path = tmp_path / "sort.json"
    whole = path.read_bytes()
    for size in range(len(whole) - 2):
        path.write_bytes(whole[:size])
        assert read_receipt(tmp_path, "sort") is None


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"3", b'"text"', b"{}", b'{"seal": 1}', b"\xff\xfe"])
def test_anything_else_is_no_receipt(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "sort.json").write_bytes(content)
    assert read_receipt(tmp_path, "sort") is None


def _sealed(content: dict[str, object]) -> bytes:
    return json.dumps({**content, "seal": digest_of(content)}).encode("ascii")


def test_another_format_is_no_receipt(tmp_path: Path) -> None:
    write_receipt(tmp_path, RECEIPT)
    content = json.loads((tmp_path / "sort.json").read_bytes())
    del content["seal"]
    for change in ({"format": 2}, {"more": 1}):
        (tmp_path / "sort.json").write_bytes(_sealed({**content, **change}))
        assert read_receipt(tmp_path, "sort") is None
    (tmp_path / "sort.json").write_bytes(_sealed(content))
    assert read_receipt(tmp_path, "sort") == RECEIPT


def test_missing_folder_is_no_receipt(tmp_path: Path) -> None:
    assert read_receipt(tmp_path / "none", "sort") is None
    (tmp_path / "sort.json").mkdir()
    assert read_receipt(tmp_path, "sort") is None


def test_a_new_receipt_takes_the_place_of_the_old(tmp_path: Path) -> None:
    write_receipt(tmp_path, RECEIPT)
    write_receipt(tmp_path, replace(RECEIPT, software="0.2.0"))
    assert os.listdir(tmp_path) == ["sort.json"]
    assert read_receipt(tmp_path, "sort").software == "0.2.0"


def test_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert len({digest_of(c) for c in ({"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": [1]}, {"b": 1}, [1, 2], [2, 1])}) == 7
