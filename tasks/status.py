"""Tell where a study stands, from its index and its receipts, without changing anything."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tasks.receipt import read_receipt
from tasks.sort.store import Run, SortStore
from tasks.worklist import read_advance
from tasks.workspace import Workspace

RECEIPTS = {
    "index": "Index",
    "plan": "Plan",
    "sort": "Sort",
    "harvest": "Collect identifiers",
    "deidentify": "De-identify",
    "prepare-review": "Prepare review",
}
"""The receipts in the order of the graph: name to title."""

_LATEST = 5
"""How many runs are told."""


def read_status(workspace: Workspace) -> dict[str, Any]:
    """Summarise a workspace in numbers; no value of a patient is in it.

    Returns
    -------
    dict
        `holds`: what the dump held when it was last indexed, and what of it is incomplete, in conflict, doubled or
        rejected. `stages`: for each stage its counts, when it finished and how often each reason for setting a file
        aside occurred; empty for a stage that was never finished. `under_way`: how far each stage is whose work is
        being done, by whatever host, or was cut off. `runs`: the journal of the sorter, the last first.
    """
    holds: dict[str, int] = {}
    runs: list[Run] = []
    if workspace.index.exists():
        with SortStore(workspace.index, look_only=True) as store:
            counts, planned = store.counts(), store.plan_counts()
            holds = {
                **store.census(),
                "incomplete_series": sum(store.gap_counts().values()),
                "conflicts": planned["conflicts"],
                "duplicates": planned["duplicates"],
                "rejected": counts["rejects"],
                "archives_opened": counts["opened"],
                "read_by_pydicom": counts["slow_path"],
            }
            runs = store.runs()
    stages: dict[str, Any] = {}
    for name, title in RECEIPTS.items():
        receipt = read_receipt(workspace.receipts, name)
        stages[title] = {}
        if receipt is not None:
            reasons = {} if name == "index" else receipt.facts.get("reasons", {})
            stages[title] = {"counts": dict(receipt.counts), "finished": receipt.finished, "reasons": dict(reasons)}
    advances = [asdict(advance) for advance in read_advance(workspace.plans)]
    latest = [asdict(run) for run in reversed(runs[-_LATEST:])]
    return {"workspace": workspace.key, "holds": holds, "stages": stages, "under_way": advances, "runs": latest}
