"""Every fault has one sentence, one code and one line in the table, and travels between processes."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
import string

import pytest

import tasks
from pipelines.ground import RETURN_CODES
from tasks.errors import CollisionError, ScanwardError, error_table
from tests.conftest import REPOSITORY


def _all_kinds(kind: type[ScanwardError] = ScanwardError) -> list[type[ScanwardError]]:
    """List every fault of the product, at whatever depth and in whatever module it stands."""
    for module in pkgutil.walk_packages(tasks.__path__, "tasks."):
        importlib.import_module(module.name)
    return [each for child in kind.__subclasses__() if _ours(child) for each in (child, *_all_kinds(child))]


def _ours(kind: type[ScanwardError]) -> bool:
    return kind.__module__.split(".")[0] in ("tasks", "pipelines", "viewer")


KINDS = _all_kinds()


def _facts(kind: type[ScanwardError]) -> dict[str, object]:
    names = {name for text in (kind.sentence, kind.hint) for _, name, _, _ in string.Formatter().parse(text) if name}
    return {name: f"<{name}>" for name in names}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_fault_says_what_is_wrong_and_what_to_do(kind: type[ScanwardError]) -> None:
    facts = _facts(kind)
    fault = kind(**facts)
    text = str(fault)
    assert all(str(fact) in text for fact in facts.values())
    assert "{" not in text
    if facts.keys() != {"problem", "remedy"}:
        assert kind.sentence.endswith(".")
        assert not kind.hint or kind.hint.endswith(".")
    assert kind.__doc__

    travelled = pickle.loads(pickle.dumps(fault))
    assert type(travelled) is kind
    assert (str(travelled), travelled.facts) == (text, facts)


def test_braces_in_a_fact_are_no_gaps() -> None:
    assert "{count} {0}" in str(CollisionError(count=1, path="{count} {0}"))


def test_a_fact_that_is_missing_is_noticed() -> None:
    with pytest.raises(KeyError):
        CollisionError(count=1)


def test_table_names_every_fault_once() -> None:
    table = [row for row in error_table() if row[1] in {kind.__name__ for kind in KINDS}]
    assert sorted(row[1] for row in table) == sorted(kind.__name__ for kind in KINDS)
    assert len({row[1] for row in table}) == len(table)
    assert table == sorted(table)
    for code, name, meaning, retry in table:
        kind = next(each for each in KINDS if each.__name__ == name)
        assert (code, retry) == (kind.exit_code, "yes" if kind.retry else "no")
        assert re.match(r"[A-Z].*[^ ]", meaning)


def test_codes_are_documented_and_luigis_are_others() -> None:
    codes = {kind.exit_code for kind in KINDS}
    assert codes.isdisjoint({0, 1})
    assert codes.isdisjoint(RETURN_CODES.values())
    assert max(codes) < 126, "codes from 126 on belong to the shell"
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    for code in codes | set(RETURN_CODES.values()):
        assert re.search(rf"^\| *`?{code}`? *\|", readme, re.MULTILINE), f"the README has no line for code {code}"
