"""Tell where a study stands, from its index and its receipts, without changing anything."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tasks.index.store import IndexStore
from tasks.receipt import read_receipt
from tasks.workspace import Workspace

RECEIPTS = {"index": "Index", "sort": "Sort", "deidentify": "De-identify", "prepare-review": "Prepare review"}
"""The receipts in the order of the graph: name to title."""


def read_status(workspace: Workspace) -> dict[str, Any]:
    """Summarise a workspace in numbers; no value of a patient is in it.

    Returns
    -------
    dict
        `holds`: what the dump held when it was last indexed. `stages`: for each stage its counts, when it finished and
        how often each reason for setting a file aside occurred; empty for a stage that was never finished.
    """
    holds: dict[str, int] = {}
    rejects: dict[str, int] = {}
    if workspace.index.exists():
        with IndexStore(workspace.index) as store:
            holds = store.census()
            rejects = dict(sorted(Counter(reject.reason for reject in store.rejects()).items()))
    stages: dict[str, Any] = {}
    for name, title in RECEIPTS.items():
        receipt = read_receipt(workspace.receipts, name)
        stages[title] = {}
        if receipt is not None:
            reasons = rejects if name == "sort" else receipt.facts.get("reasons", {})
            stages[title] = {"counts": dict(receipt.counts), "finished": receipt.finished, "reasons": dict(reasons)}
    return {"workspace": workspace.key, "holds": holds, "stages": stages}
