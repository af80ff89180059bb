"""What every task of a study shares: its parameters, its workspace, the clock, progress, faults and the last summary.

No parameter that shows (in a log, a task id, the scheduler's page) may say anything of a patient, and a folder's name
can. So the paths are insignificant and hidden, and a task is told from another by the workspace's random key. (Luigi's
"private" would be lost on the way of a task that is yielded while another runs.)
"""

from __future__ import annotations

import atexit
import datetime as dt
import errno
import gc
import json
import os
import pwd
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import luigi
from luigi.parameter import ParameterVisibility

from tasks import __version__
from tasks.config import DeidentifySettings, StudySettings, read_study
from tasks.errors import DumpError, ScanwardError, StudyFileError, UsageError
from tasks.files import make_folder, sweep_temporaries, temporary_sibling, write_json
from tasks.index.scan import Inventory, Quiet, scan_dump
from tasks.logs import LOGGER, FaultFilter, keep_fault, sentence_for
from tasks.progress import ProgressBoard
from tasks.receipt import Receipt, digest_of, read_receipt, write_receipt
from tasks.sort.layout import LayoutError, parse_layout
from tasks.sort.visit import VisitTableError, read_visit_overrides
from tasks.status import RECEIPTS
from tasks.workspace import Workspace, open_workspace

STAGES = ("Indexing", "Planning", "Sorting", "Collecting", "De-identifying", "Preparing")
"""The stages, as progress shows them."""

BOARD = ProgressBoard(STAGES)
"""Made when this module is imported, so before Luigi forks a worker: all of them count on it."""

_LIST = ".list"
_OUTCOME = ".done"
_MOST_CHUNKS = 500
_FROZEN = "frozen"
_TRY_AGAIN_AFTER_SECONDS = 2.0
_PASSING = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
"""What a network file system answers while its server is away for a moment."""
DEFAULT_STUDY_FILE = "study.toml"
"""What is read where no study is named."""


def _hidden_path() -> Any:
    return luigi.OptionalParameter(default=None, significant=False, visibility=ParameterVisibility.HIDDEN)


@lru_cache(maxsize=16)
def load_study(study: str | None, dump: str | None, workspace: str | None) -> tuple[StudySettings, Workspace]:
    """Read the study's settings and open its workspace, once a process.

    Raises
    ------
    ScanwardError
        If something that was given cannot be used, or nothing was given and there is no study.toml here.
    """
    if study is None and (dump is None or workspace is None):
        if not Path(DEFAULT_STUDY_FILE).exists():
            raise UsageError(
                problem=f"No study was given, and there is no {DEFAULT_STUDY_FILE} in this folder.",
                remedy="Give --dump DIR and --workspace DIR, or --study FILE.toml, or write one with `scanward init`.",
            )
        study = DEFAULT_STUDY_FILE
    settings = read_study(
        Path(study) if study else None,
        dump=Path(dump) if dump else None,
        workspace=Path(workspace) if workspace else None,
    )
    try:
        parse_layout(settings.sort.layout, settings.sort.file_name)
        if settings.sort.visits is not None:
            read_visit_overrides(settings.sort.visits)
    except (LayoutError, VisitTableError) as fault:
        # A fault of a template begins with the key it stands under.
        key = "visits: " if isinstance(fault, VisitTableError) else ""
        faults = "; ".join(f"sort.{key}{text}" for text in fault.faults)
        raise StudyFileError(path=study or "(none)", faults=faults) from fault
    try:
        with os.scandir(settings.dump):
            pass
    except (FileNotFoundError, NotADirectoryError) as fault:
        problem = "does not exist" if isinstance(fault, FileNotFoundError) else "is not a folder"
        raise DumpError(path=settings.dump, problem=problem) from fault
    except OSError as fault:
        raise DumpError(
            path=settings.dump, problem=f"cannot be read ({os.strerror(fault.errno or 0).lower()})"
        ) from fault
    return settings, open_workspace(settings.workspace, dump=settings.dump)


@lru_cache(maxsize=4)
def current_inventory(dump: Path, identified: Path, quiet_seconds: float) -> Inventory:
    """Scan the dump, once a process: what is complete must not change while a run decides what to do."""
    # A run that was killed behind its last receipt left its list, and where nothing is new no stage sweeps.
    sweep_temporaries(identified, deep=False)
    spool = temporary_sibling(identified / "scan")
    atexit.register(_remove_spool, spool, os.getpid())
    quiet = None
    if quiet_seconds:
        moment = int(now().timestamp() * 1e9)
        span = int(quiet_seconds * 1e9)
        quiet = Quiet(begin_ns=moment - span, end_ns=moment + span)
    return scan_dump(os.fsencode(dump), spool, quiet=quiet)


def _remove_spool(spool: Path, process: int) -> None:
    """Remove the list of files when the process that made it ends, and not when one that it forked does."""
    if os.getpid() == process:
        spool.unlink(missing_ok=True)


def say_and_exit(fault: ScanwardError) -> NoReturn:
    """End the process with a fault's sentence and code, after its traceback if that was asked for."""
    if FaultFilter.debug:
        try:
            raise fault
        except ScanwardError:
            traceback.print_exc()
    sys.stderr.write(f"{fault}\n")
    raise SystemExit(fault.exit_code)


class StudyTask(luigi.Task):
    """A task that works on one study.

    Attributes
    ----------
    study, dump, workspace
        Paths as given on the command line; never shown.
    workspace_key
        Filled in by itself; all that a log or a scheduler sees of the study.
    debug
        Show tracebacks, which may quote patients.
    """

    study = _hidden_path()
    dump = _hidden_path()
    workspace = _hidden_path()
    workspace_key = luigi.Parameter(default="")
    debug = luigi.BoolParameter(default=False, significant=False)

    _percentage = -1

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Resolve the parameters, and fill in the workspace's key."""
        values = dict(super().get_param_values(params, args, kwargs))  # type: ignore[no-untyped-call] # Luigi's
        try:
            _, opened = load_study(values["study"], values["dump"], values["workspace"])
        except ScanwardError as fault:
            say_and_exit(fault)
        values["workspace_key"] = opened.key
        return list(values.items())

    @property
    def settings(self) -> StudySettings:
        """The study file's content."""
        return load_study(self.study, self.dump, self.workspace)[0]

    @property
    def place(self) -> Workspace:
        """The workspace."""
        return load_study(self.study, self.dump, self.workspace)[1]

    @property
    def inventory(self) -> Inventory:
        """What lies in the dump."""
        return current_inventory(self.settings.dump, self.place.identified, self.settings.index.quiet_seconds)

    def sibling(self, kind: type[StudyTask], **more: Any) -> Any:
        """Make another task of the same study."""
        return kind(study=self.study, dump=self.dump, workspace=self.workspace, debug=self.debug, **more)

    def run(self) -> Any:
        """Do the task's work, which `work` describes; faults are kept in `identified/` and told in one sentence.

        A fault that may pass by itself is met once more. Luigi's own retries are off, because it cannot tell faults
        apart, and a central scheduler that counts failures locks a task for a day.
        """
        if os.getpid() != _MAIN_PROCESS:
            # Ctrl-C reaches every process; this one would write its traceback beside the main one's sentence.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Rows come by the million and hold no cycles: looking for some after every few hundred takes its time.
        gc.set_threshold(100_000, 20, 100)
        for last in (False, True):
            try:
                needed = self.work()
                if needed is not None:
                    yield from needed
            except Exception as fault:
                keep_fault(self.place.logs, fault)
                if last or not _may_pass(fault):
                    raise
                time.sleep(_TRY_AGAIN_AFTER_SECONDS)
            else:
                return

    def work(self) -> Iterator[Any] | None:
        """Do the work; a generator yields the tasks that turn out to be needed."""
        raise NotImplementedError

    def on_failure(self, exception: BaseException) -> str:
        """Tell the scheduler of a fault in one sentence: what it is told, its web page shows."""
        return sentence_for(exception)

    def advance(self, stage: str, units: int = 1) -> None:
        """Count units done, for the progress bar and for Luigi's page."""
        BOARD.advance(stage, units)
        done, total = BOARD.read(stage)
        percentage = min(100, 100 * done // total) if total else -1
        # Each call is a message to the scheduler; units come by the thousand.
        if self.set_progress_percentage is not None and percentage > self._percentage:
            self._percentage = percentage
            self.set_progress_percentage(percentage)


class ChunkTask(StudyTask):
    """A task that works through one frozen list, and is complete when its outcome is written.

    Attributes
    ----------
    plan
        The folder of lists below `identified/plans`.
    chunk
        Which of them, counted from zero.
    """

    plan = luigi.Parameter()
    chunk = luigi.IntParameter()

    @property
    def list_path(self) -> Path:
        """The list to work through."""
        return list_path(self.place.plans / self.plan, self.chunk)

    @property
    def outcome_path(self) -> Path:
        """What became of it."""
        return self.list_path.with_suffix(_OUTCOME)

    def complete(self) -> bool:
        """Tell whether the outcome is written."""
        return self.outcome_path.exists()


def list_path(folder: Path, chunk: int) -> Path:
    """Return where the list of a chunk stands in a folder of lists."""
    return folder / f"{chunk:05d}{_LIST}"


def all_lists(folder: Path) -> Iterator[Path]:
    """Yield the lists of a folder of lists."""
    return folder.glob(f"*{_LIST}")


def chunk_size(asked: int, units: int) -> int:
    """Return how many units of work a chunk gets: as asked, or more where that would make too many chunks.

    A scheduler's work grows with the square of the tasks that wait.
    """
    return max(asked, -(-units // _MOST_CHUNKS))


class StageTask(StudyTask):
    """A task that finishes a stage: complete when its receipt says so for the present input and settings."""

    stage = ""
    """The receipt's name."""

    title = ""
    """How the last summary calls the stage."""

    chunk_task: type[ChunkTask]
    """What does this stage's work lists, if it has any."""

    def input_digest(self) -> str:
        """Name what this stage works on, as a rule what the stage before made; empty while that is not complete."""
        before: StageTask = self.requires()  # type: ignore[no-untyped-call] # Luigi's
        receipt = before.receipt()
        return receipt.output_digest if receipt is not None and before.complete() else ""

    def settings_digest(self) -> str:
        """Name the settings that matter to this stage."""
        raise NotImplementedError

    def stands(self) -> bool:
        """Tell whether the receipt stands for the present input and settings, and no later run was cut off."""
        receipt = self.receipt()
        return (
            receipt is not None
            and receipt.input_digest == self.input_digest() != ""
            and receipt.settings_digest == self.settings_digest()
            and self.is_still_there(receipt)
            and not any(self.place.plans.glob(f"{self.stage}-*/{_FROZEN}"))
        )

    def complete(self) -> bool:
        """Tell whether the stage is done; if it is not, get ready for it."""
        done = self.stands()
        if os.getpid() == _MAIN_PROCESS:
            _seen.setdefault(self.stage, (self, done))
            if not done:
                self.prepare()
                # Here and not where the work is done: with several workers that is another process.
                BOARD.start(terminal=sys.stderr.isatty(), logger=LOGGER)
        return done

    def prepare(self) -> None:
        """Get ready for work; called in the main process, before any other is forked."""

    def is_still_there(self, receipt: Receipt) -> bool:  # noqa: ARG002 - for those that need it
        """Tell whether what the receipt speaks of was not taken away since; a glance, not a search."""
        return True

    def receipt(self) -> Receipt | None:
        """Read this stage's receipt, if it stands."""
        return read_receipt(self.place.receipts, self.stage)

    def freeze(
        self,
        progress: str,
        write_lists: Callable[[Path], list[int]],
        *,
        still_true: Callable[[ChunkTask], bool] | None = None,
    ) -> list[ChunkTask]:
        """Have the work lists of this stage written, once for each input and settings; return their tasks.

        Luigi runs a task again from its beginning when the tasks it asked for are done, and a killed run starts over:
        what is to be done must be the same each time.

        Parameters
        ----------
        progress
            The stage's name on the progress board.
        write_lists
            Writes the lists (`list_path`) into a folder and returns how many units of work each holds.
        still_true
            Tells of a chunk that was done before this run of Luigi whether what it did still stands; else it is done
            again.
        """
        name = f"{self.stage}-{digest_of([self.input_digest(), self.settings_digest()])[:16]}"
        folder = self.place.plans / name
        frozen = folder / _FROZEN
        if not frozen.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder, mode=0o700)
            write_json(frozen, {"session": SESSION, "units": write_lists(folder)}, mode=0o600)
        plan = json.loads(frozen.read_bytes())
        units = plan["units"]
        chunks = [self.sibling(self.chunk_task, plan=name, chunk=chunk) for chunk in range(len(units))]
        if still_true is not None and plan["session"] != SESSION:
            for chunk in chunks:
                if chunk.complete() and not still_true(chunk):
                    chunk.outcome_path.unlink()
        if not BOARD.read(progress)[1]:
            todo = [count for count, chunk in zip(units, chunks, strict=True) if not chunk.complete()]
            BOARD.expect(progress, sum(todo))
        return chunks

    def finish(self, **facts: Any) -> None:
        """Write this stage's receipt: the last act of a stage."""
        # What this run wrote is complete; what is unfinished was left by one that was cut off.
        sweep_temporaries(self.place.identified, deep=False)
        for folder in (self.place.plans, self.place.receipts, self.place.lists):
            sweep_temporaries(folder)
        receipt = Receipt(
            stage=self.stage,
            software=__version__,
            input_digest=self.input_digest(),
            settings_digest=self.settings_digest(),
            finished=now().isoformat(timespec="seconds"),
            **facts,
        )
        write_receipt(self.place.receipts, receipt)

    def forget_plans(self, *, but: Path | None = None) -> None:
        """Remove this stage's work lists: its receipt stands, or they are of earlier runs."""
        for plan in self.place.plans.glob(f"{self.stage}-*"):
            if plan != but:
                forget_plan(plan)


def forget_plan(plan: Path) -> None:
    """Remove one folder of work lists."""
    # First of all, or a run after a crash would take what is left of the lists for all of them.
    (plan / _FROZEN).unlink(missing_ok=True)
    shutil.rmtree(plan)


def _may_pass(fault: Exception) -> bool:
    """Tell whether the same act may succeed in a moment, with nobody changing anything."""
    return fault.retry if isinstance(fault, ScanwardError) else getattr(fault, "errno", None) in _PASSING


def holds_something(folder: Path) -> bool:
    """Tell whether a folder exists and is not empty."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def user_name() -> str:
    """Read who runs this process: by the process's own user ID, because LOGNAME and its like anybody can set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def key_map_passphrase(settings: DeidentifySettings) -> bytes | None:
    """Read the passphrase of the key map from where the study file says; None if it names no place.

    Raises
    ------
    KeyMapError
        If it is not there, is too short, or others may read it.
    MissingPackageError
        If the package that encrypts is not installed.
    """
    # De-identification needs pydicom; SortStudy runs without.
    from tasks.deidentify.keymap import checked_passphrase, load_passphrase  # noqa: PLC0415
    from tasks.deidentify.sealed import require_cipher  # noqa: PLC0415

    name = settings.key_map_passphrase_variable
    if settings.key_map_passphrase_file is None and not name:
        return None
    require_cipher()
    if settings.key_map_passphrase_file is not None:
        return load_passphrase(settings.key_map_passphrase_file)
    return checked_passphrase(os.fsencode(os.environ.get(name, "")), f"the environment variable {name}")


def secret_of(file: Path | None, variable: str) -> str:
    """Read a secret from a file that its owner alone may read, or from an environment variable; empty without either.

    Raises
    ------
    UsageError
        If what is named is not there, or others may read it.
    """
    if file is not None:
        try:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise UsageError(problem=f"Others may read {file}.", remedy=f"Close it first: chmod 600 {file}.")
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as fault:
            raise UsageError(problem=f"{file} cannot be read.", remedy="Put the secret there, mode 0600.") from fault
    if variable and variable not in os.environ:
        raise UsageError(
            problem=f"The environment variable {variable} is not set.", remedy="Set it where the command is run."
        )
    return os.environ.get(variable, "") if variable else ""


def now() -> dt.datetime:
    """Read the clock: UTC, to be shown with its offset."""
    return dt.datetime.now(dt.UTC)


_MAIN_PROCESS = os.getpid()
SESSION = f"{_MAIN_PROCESS}-{now().isoformat()}"
"""This run of Luigi, in all its processes."""

_seen: dict[str, tuple[StageTask, bool]] = {}
"""Each stage that Luigi asked about, and whether it was complete when first asked."""


@atexit.register
def _say_summaries() -> None:
    """Say at the very end what came in, what was done, what was set aside and where the lists are."""
    if os.getpid() != _MAIN_PROCESS:
        return
    BOARD.stop()
    for stage in RECEIPTS:
        if stage not in _seen:
            continue
        task, was_complete = _seen[stage]
        receipt = task.receipt()
        if receipt is None or not task.stands():
            LOGGER.info("%s: not finished.", task.title)
            continue
        # What was done "now" was done by an earlier run, if this one found the stage complete.
        told = {name: count for name, count in receipt.counts.items() if not (was_complete and name.endswith("_now"))}
        # Of what there is none nothing is said, but for the first: how much there was at all.
        first = next(iter(told), "")
        said = [f"{count:,} {name.replace('_', ' ')}" for name, count in told.items() if count or name == first]
        counts = ", ".join(said)
        LOGGER.info("%s%s: %s.", task.title, " (nothing new)" if was_complete else "", counts)
        for name, path in receipt.lists.items():
            LOGGER.info("  %s: %s", name, task.place.root / path)
