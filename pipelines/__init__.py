"""What you can ask Luigi for: `SortStudy`, `DeidentifyStudy`, `PrepareReview`, `SortDays`, each night `NightlyReport`.

Importing this package also makes Luigi behave as a tool for a hospital must, wherever the user has not said otherwise:
it runs without a daemon, a failed run ends with a non-zero code, few retries, no mail with tracebacks.
"""

from __future__ import annotations

from pipelines.ground import check_package_owners, set_luigi_defaults

check_package_owners()
set_luigi_defaults()

from pipelines.days import SortDay, SortDays  # noqa: E402 - the defaults must stand before a task class is made
from pipelines.deidentify import DeidentifyStudy  # noqa: E402
from pipelines.harvest import HarvestIdentifiers  # noqa: E402
from pipelines.index import IndexDump  # noqa: E402
from pipelines.monitor import NightlyReport  # noqa: E402
from pipelines.review import PrepareReview  # noqa: E402
from pipelines.sort import PlanSort, SortStudy  # noqa: E402

__all__ = [
    "DeidentifyStudy",
    "HarvestIdentifiers",
    "IndexDump",
    "NightlyReport",
    "PlanSort",
    "PrepareReview",
    "SortDay",
    "SortDays",
    "SortStudy",
]
