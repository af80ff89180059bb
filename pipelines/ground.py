"""What must hold before a task class is made: our package names are ours, and Luigi's defaults are safe ones."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from luigi.configuration import get_config
from luigi.parameter import ParameterException, UnconsumedParameterWarning
from luigi.rpc import RPCError
from luigi.task_register import TaskClassException

# Nothing of `tasks` is imported here before `check_package_owners` has seen that it is ours.

RETURN_CODES = {
    "already_running": 10,
    "missing_data": 20,
    "not_run": 25,
    "task_failed": 30,
    "scheduling_error": 35,
    "unhandled_exception": 40,
}
"""What `luigi` ends with, by the names of its `[retcode]` section; Luigi itself would end with 0 for most of them."""

_DEFAULTS = {
    ("core", "log_level"): "WARNING",
    # Luigi's own folder belongs to whoever came first on a machine, and keeps out everybody else.
    ("core", "lock_pid_dir"): os.path.join(tempfile.gettempdir(), f"luigi-{os.getuid()}"),
    # A traceback can quote a patient: no mail of Luigi's leaves the machine, the night report is the only one.
    ("worker", "send_failure_email"): "false",
    ("worker", "keep_alive"): "false",
    # Luigi would try every fault again as long as other tasks run; a fault that may pass is tried again by its task.
    ("scheduler", "retry_delay"): "-1",
    **{("retcode", name): str(code) for name, code in RETURN_CODES.items()},
}

_CENTRAL_DEFAULTS = {
    # Whoever is left finishes the work of those that are gone, and an idle one looks for work every second or two.
    ("worker", "keep_alive"): "true",
    ("worker", "wait_interval"): "1",
    ("worker", "wait_jitter"): "1",
    # The scheduler knows what is done; a network file system may show it some time later, and tasks wait for that.
    ("worker", "check_unfulfilled_deps"): "false",
    # The same command twice on one machine is two workers, and no mistake.
    ("core", "no_lock"): "true",
    # A scheduler that is started anew is back in less than that.
    ("core", "rpc-retry-attempts"): "6",
    ("core", "rpc-retry-wait"): "5",
    ("core", "rpc-log-retries"): "false",
}
"""Options under a central scheduler, before those above."""

_NAMES = ("pipelines", "tasks", "viewer")
_STOPPED_BY_HAND = 130
_NO_ANSWER = (
    "The scheduler does not answer. See whether luigid runs and the tunnel to it stands, and start the same command "
    "again: it goes on where this one stopped."
)


def check_package_owners() -> None:
    """Refuse to run among strangers: the three package names are generic, and another distribution may own one.

    Two looks are needed. A wheel that overwrote one of ours shows as a second owner; in an editable install the
    stranger simply wins the import, and only its folder tells.
    """
    home = Path(__file__).resolve().parent.parent
    owners = _owners_of_names()
    for name in _NAMES:
        spec = importlib.util.find_spec(name)
        if strangers := owners.get(name):
            _refuse(home, name, ", ".join(sorted(strangers)))
        if spec is None or spec.origin is None or Path(spec.origin).resolve().parent.parent != home:
            _refuse(home, name, "a package elsewhere")


def _owners_of_names() -> dict[str, set[str]]:
    """Return the other distributions that put files into one of the three packages: name to distributions.

    Looks into the lists of installed files as they stand: `importlib.metadata` takes them apart line by line, which
    costs every start a tenth of a second.
    """
    owners: dict[str, set[str]] = {}
    for folder in sys.path:
        for record in Path(folder or ".").glob("*.dist-info/RECORD"):
            distribution = record.parent.name.partition("-")[0]
            content = b"\n" + record.read_bytes()
            for name in _NAMES:
                if distribution != "scanward" and b"\n%b/" % name.encode("ascii") in content:
                    owners.setdefault(name, set()).add(distribution)
    return owners


def _refuse(home: Path, name: str, stranger: str) -> NoReturn:
    # By its place, because the stranger may be the one that answers to `tasks`.
    spec = importlib.util.spec_from_file_location("scanward_errors", home / "tasks" / "errors.py")
    assert spec is not None
    assert spec.loader is not None
    errors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(errors)
    fault = errors.PackageConflictError(name=name, stranger=stranger)
    sys.stderr.write(f"{fault}\n")
    raise SystemExit(fault.exit_code)


def set_luigi_defaults() -> None:
    """Set Luigi's options where the user's own configuration says nothing; have every fault told in one sentence."""
    from tasks.logs import FaultFilter, SaidOnce, configure_logging  # noqa: PLC0415

    configure_logging()
    config = get_config()  # type: ignore[no-untyped-call] # Luigi's
    scheduler_named = any(_is_set("core", f"default_scheduler_{part}") for part in ("host", "port", "url"))
    scheduler_asked = any(word.startswith("--scheduler-") for word in sys.argv[1:])
    if not scheduler_named and not scheduler_asked and not _is_set("core", "local_scheduler"):
        config.set("core", "local_scheduler", "true")
    # Options of Luigi's of which one part of it does not know that another reads them.
    # They would be quoted, and an address may hold a password.
    unknown = r"The configuration contains the parameter '(rpc_|default_scheduler_)"
    warnings.filterwarnings("ignore", unknown, UnconsumedParameterWarning)
    alone = "--local-scheduler" in sys.argv[1:] or config.getboolean("core", "local_scheduler", False)
    for (section, option), value in (_DEFAULTS if alone else _DEFAULTS | _CENTRAL_DEFAULTS).items():
        if not _is_set(section, option):
            config.set(section, option, value)
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(known, FaultFilter) for known in logger.filters):
        FaultFilter.debug = "--debug" in sys.argv
        FaultFilter.own_words = (ParameterException, TaskClassException)
        FaultFilter.sentences[RPCError] = _NO_ANSWER
        logger.addFilter(FaultFilter(SaidOnce()))
    sys.excepthook = _end_uncaught


def _end_uncaught(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    """Say in one sentence what Luigi lets through: a task it does not know, and Ctrl-C."""
    from tasks.errors import UsageError  # noqa: PLC0415
    from tasks.logs import FaultFilter  # noqa: PLC0415

    if issubclass(kind, KeyboardInterrupt):
        sentence, code = "Stopped. The same command goes on where this one was.", _STOPPED_BY_HAND
    elif issubclass(kind, TaskClassException):
        sentence, code = " ".join(str(fault).split()), UsageError.exit_code
    else:
        sys.__excepthook__(kind, fault, trace)
        return
    if FaultFilter.debug:
        sys.__excepthook__(kind, fault, trace)
    sys.stderr.write(f"{sentence}\n")
    raise SystemExit(code)


def _is_set(section: str, option: str) -> bool:
    config = get_config()  # type: ignore[no-untyped-call] # Luigi's
    return bool(config.has_option(section, option) or config.has_option(section, option.replace("_", "-")))
