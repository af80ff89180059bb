"""What every task of a study shares: its parameters, its workspace, the clock, progress, faults and the last summary.

No parameter that shows (in a log, a task id, the scheduler's page) may say anything of a patient, and a folder's name
can. So the paths are insignificant and hidden, and a task is told from another by the workspace's random key. (Luigi's
"private" would be lost on the way of a task that is yielded while another runs.)
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import errno
import gc
import multiprocessing
import os
import pwd
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import luigi
from luigi.parameter import ParameterVisibility

from pipelines import run
from tasks import __version__
from tasks.config import DeidentifySettings, StudySettings, read_study
from tasks.desk import Desk, lay_out
from tasks.errors import DumpError, OvertakenError, ScanwardError, StorageError, StudyFileError, UsageError
from tasks.files import make_folder, sweep_temporaries, temporary_sibling
from tasks.index.scan import Inventory, Quiet, scan_dump
from tasks.logs import LOGGER, FaultFilter, keep_fault, sentence_for
from tasks.progress import ProgressBoard
from tasks.receipt import Receipt, digest_of, read_receipt, write_receipt
from tasks.sort.layout import LayoutError, parse_layout
from tasks.sort.visit import VisitTableError, read_visit_overrides
from tasks.status import RECEIPTS
from tasks.worklist import (
    WorkList,
    forget,
    freeze,
    frozen_folders,
    is_frozen,
    list_path,
    outcome_path,
    read_advance,
    read_frozen,
)
from tasks.workspace import Workspace, open_workspace

STAGES = ("Indexing", "Planning", "Sorting", "Collecting", "De-identifying", "Preparing")
"""The stages, as progress shows them."""

BOARD = ProgressBoard(STAGES)
"""Made when this module is imported, so before Luigi forks a worker: all of them count on it."""

_TRY_AGAIN_AFTER_SECONDS = 2.0
_PASSING = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
"""What a network file system answers while its server is away for a moment."""
DEFAULT_STUDY_FILE = "study.toml"
"""What is read where no study is named."""

_EVERYBODY = "*"
"""Who asks for a stage itself, as all processes of a run do together; before the run's name."""

_LOOK_EVERY_SECONDS = 0.5

_wishes_granted = multiprocessing.Value("b", False, lock=False)
"""Whether what this process was asked for is done; told by a process that it forked."""


def hidden_path() -> Any:
    """Make a parameter that is shown nowhere and names no task."""
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
    # A run that was killed behind its last receipt may have left something, and where nothing is new no stage sweeps.
    sweep_temporaries(identified, deep=False, foreign=False)
    spool = temporary_sibling(identified / "scan")
    quiet = None
    if quiet_seconds:
        moment = int(now().timestamp() * 1e9)
        span = int(quiet_seconds * 1e9)
        quiet = Quiet(begin_ns=moment - span, end_ns=moment + span)
    return scan_dump(os.fsencode(dump), spool, quiet=quiet)


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

    study = hidden_path()
    dump = hidden_path()
    workspace = hidden_path()
    workspace_key = luigi.Parameter(default="")
    debug = luigi.BoolParameter(default=False, significant=False)

    _percentage = -1

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Resolve the parameters, and fill in the workspace's key."""
        values = dict(super().get_param_values(params, args, kwargs))  # type: ignore[no-untyped-call] # Luigi's
        try:
            settings, opened = load_study(values["study"], values["dump"], values["workspace"])
            if run.has_central_scheduler():
                run.check_scheduler(plain_http=settings.hosts.plain_http)
        except ScanwardError as fault:
            say_and_exit(fault)
        values["workspace_key"] = opened.key
        return list(values.items())

    @classmethod
    def for_study(cls, *, study: str, dump: str, workspace: str) -> Any:
        """Make the task of a study among others, whose faults must not end the process.

        Raises
        ------
        ScanwardError
            If something that was given cannot be used.
        """
        load_study(study, dump, workspace)
        return cls(study=study, dump=dump, workspace=workspace)

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
        if hasattr(kind, "asked_by") and run.has_central_scheduler():
            joined = run.joined(self.place)
            more.setdefault("asked_by", f"{_EVERYBODY}{joined.token if joined is not None else ''}")
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
                yield from self.carry_out()
            except Exception as fault:
                keep_fault(self.place.logs, fault)
                if last or not _may_pass(fault):
                    self._leave_to_others()
                    raise
                time.sleep(_TRY_AGAIN_AFTER_SECONDS)
            else:
                return

    def carry_out(self) -> Iterator[Any]:
        """Do the work, and yield the tasks that turn out to be needed."""
        needed = self.work()
        if needed is not None:
            yield from needed

    def work(self) -> Iterator[Any] | None:
        """Do the work; a generator yields the tasks that turn out to be needed."""
        raise NotImplementedError

    def _leave_to_others(self) -> None:
        """Where several hosts work, ask for no more work: what this one cannot do, another may.

        Its scheduler would hand the same piece out here again and again.
        """
        if run.joined(self.place) is not None:
            # Luigi's own way to be told so (luigi.worker, SIGUSR1).
            os.kill(_MAIN_PROCESS, signal.SIGUSR1)

    def wait_until(self, seen: Callable[[], bool], stage: str) -> None:
        """Wait for what another host wrote, which a network file system may show here only some time later.

        Raises
        ------
        StorageError
            If it does not show up at all.
        """
        seconds = self.settings.hosts.storage_seconds
        until = time.monotonic() + seconds
        while not seen():
            if time.monotonic() > until:
                raise StorageError(stage=stage, seconds=round(seconds))
            time.sleep(_LOOK_EVERY_SECONDS)

    def on_failure(self, exception: BaseException) -> str:
        """Tell the scheduler of a fault in one sentence: what it is told, its web page shows."""
        return sentence_for(exception)

    def advance(self, stage: str, units: int = 1) -> None:
        """Count units done, for the progress bar and for Luigi's page."""
        BOARD.advance(stage, units)
        self.show_percentage(*BOARD.read(stage))

    def show_percentage(self, done: int, total: int) -> None:
        """Show on Luigi's page how far the task is."""
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

    told: Callable[[int], None] | None = None
    """Who is told of units done, if this chunk is part of a portion."""

    @property
    def folder(self) -> Path:
        """The folder of its list."""
        return self.place.plans / self.plan

    @property
    def list_path(self) -> Path:
        """The list to work through."""
        return list_path(self.folder, self.chunk)

    @property
    def outcome_path(self) -> Path:
        """What became of it."""
        return outcome_path(self.folder, self.chunk)

    def complete(self) -> bool:
        """Tell whether the outcome is written."""
        return self.outcome_path.exists()

    def advance(self, stage: str, units: int = 1) -> None:
        """Count units done, for whoever shows that."""
        if self.told is None:
            super().advance(stage, units)
        else:
            self.told(units)


class StageTask(StudyTask):
    """A task that finishes a stage: complete when its receipt says so for the present input and settings.

    Alone, a process asks for the chunks as soon as they are known. Under a central scheduler every process must ask for
    the same tasks from the beginning, or it would be given none of those that another one found out about. So there a
    stage asks for a fixed number of portions, among which the chunks are dealt (`pipelines.portions`); and what was
    asked for by a person is a task of one process alone, so that each ends when all is done and tells how that went.

    Attributes
    ----------
    asked_by
        Filled in by itself under a central scheduler: the process that was asked, or, of the stage itself, the run
        whose processes ask for it together. A scheduler does not believe for some time that what was done in one run
        is to be done again in the next.
    """

    asked_by = luigi.Parameter(default="")

    stage = ""
    """The receipt's name."""

    title = ""
    """How the last summary calls the stage."""

    chunk_task: type[ChunkTask] | None = None
    """What does this stage's work lists, if it has any."""

    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()
    """The databases that it looks into and that it changes; needed where several hosts see them."""

    kinds: ClassVar[dict[str, type[StageTask]]] = {}
    """The stages by name."""

    _receipt: Receipt | None = None
    _desk: Desk | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.stage:
            StageTask.kinds[cls.stage] = cls

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Resolve the parameters, and name the process that was asked."""
        values = dict(super().get_param_values(params, args, kwargs))
        if run.has_central_scheduler() and not values["asked_by"]:
            values["asked_by"] = run.name_process()
        return list(values.items())

    @property
    def is_wish(self) -> bool:
        """Whether this task only waits until the stage is done, on behalf of one process."""
        return self.asked_by != "" and not self.asked_by.startswith(_EVERYBODY)

    @property
    def place(self) -> Workspace:
        """The workspace, with working copies of the databases where those are used."""
        place = super().place
        return replace(place, desk=self._desk.folder) if self._desk is not None else place

    @property
    def session(self) -> str:
        """The run that this process takes part in."""
        joined = run.joined(super().place)
        return joined.token if joined is not None else SESSION

    def before(self) -> StageTask | None:
        """Return the stage that this one works on; the first has none."""
        return None

    def requires(self) -> Any:
        """Ask for the stage before, or under a central scheduler for what stands between."""
        if self.is_wish:
            return self.sibling(type(self))
        if self.asked_by and self.chunk_task is not None:
            from pipelines.portions import portions_of  # noqa: PLC0415 - which knows the stages

            return portions_of(self)
        return self.before() or []

    def input_digest(self) -> str:
        """Name what this stage works on, as a rule what the stage before made; empty while that is not complete."""
        before = self.before()
        assert before is not None
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
            and not any(frozen_folders(self.place.plans, self.stage))
        )

    def complete(self) -> bool:
        """Tell whether the stage is done; if it is not, get ready for it."""
        if os.getpid() != _MAIN_PROCESS:
            return self.stands()
        if self.is_wish:
            self._join_run()
        done = self.stands()
        _seen.setdefault(self.stage, (self, done))
        if not done:
            if self.is_wish and run.joined(self.place) is None:
                run.begin(self.place, self._dump_taken_as_indexed())
            if self.is_wish:
                run.limit(self.settings.hosts)
            self.prepare()
            # Here and not where the work is done: with several workers that is another process.
            refresh = self._show_what_all_do if self.asked_by else None
            BOARD.start(terminal=sys.stderr.isatty(), logger=LOGGER, refresh=refresh)
        return done

    def _join_run(self) -> None:
        """Take part in the run that is under way, unless that has done already what is asked for."""
        try:
            if run.join(self.place) is not None and self.stands():
                # Its mark was left behind, or others go on with more: for this task the dump is looked at anew.
                run.end(self.place)
                run.leave(self.place)
        except ScanwardError as fault:
            say_and_exit(fault)

    def _dump_taken_as_indexed(self) -> str:
        """Name the dump as the index knows it, if that is complete now."""
        first: StageTask = self.sibling(type(self))
        while (before := first.before()) is not None:
            first = before
        receipt = first.receipt()
        return receipt.input_digest if receipt is not None and first.stands() else ""

    def _show_what_all_do(self) -> None:
        """Put on the progress board what all hosts have done."""
        now_frozen = {advance.title: advance for advance in read_advance(super().place.plans)}
        for title, advance in now_frozen.items():
            BOARD.put(title, advance.units_done, advance.units)
        for title in STAGES:
            _, total = BOARD.read(title)
            if total and title not in now_frozen and title != "Planning":
                BOARD.put(title, total, total)

    def prepare(self) -> None:
        """Get ready for work; called in the main process, before any other is forked."""

    def is_still_there(self, receipt: Receipt) -> bool:  # noqa: ARG002 - for those that need it
        """Tell whether what the receipt speaks of was not taken away since; a glance, not a search."""
        return True

    def receipt(self) -> Receipt | None:
        """Read this stage's receipt, if it stands."""
        return read_receipt(self.place.receipts, self.stage)

    @property
    def plan_folder(self) -> Path:
        """The folder of this stage's work lists for the present input and settings."""
        name = f"{self.stage}-{digest_of([self.input_digest(), self.settings_digest()])[:16]}"
        return self.place.plans / name

    def freeze(
        self,
        progress: str,
        write_lists: Callable[[Path], list[int]],
        *,
        still_true: Callable[[ChunkTask], bool] | None = None,
        facts: Callable[[], dict[str, Any]] = dict,
    ) -> list[ChunkTask]:
        """Have the work lists of this stage written, once for each input and settings; return their tasks.

        Luigi runs a task again from its beginning when the tasks it asked for are done, and a killed run starts over:
        what is to be done must be the same each time.

        Parameters
        ----------
        progress
            The stage's name on the progress board.
        write_lists
            Writes the lists (`tasks.worklist`) into a folder and returns how many units of work each holds.
        still_true
            Tells of a chunk that was done before this run of Luigi whether what it did still stands; else it is done
            again.
        facts
            Returns what the stage wants to find again when all chunks are done.
        """
        folder = self.plan_folder
        if not is_frozen(folder):
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder, mode=0o700)
            units = write_lists(folder)
            # The lists are of use only together with what was noted when they were written.
            self._put_back()
            freeze(folder, WorkList(session=self.session, title=progress, units=units, facts=facts()))
        work = read_frozen(folder)
        chunks = self.chunks(folder)
        # Where several hosts work, a chunk that is done was done by one of them a moment ago.
        if still_true is not None and work.session != self.session:
            for chunk in chunks:
                if chunk.complete() and not still_true(chunk):
                    chunk.outcome_path.unlink()
        if not BOARD.read(progress)[1]:
            todo = [count for count, chunk in zip(work.units, chunks, strict=True) if not chunk.complete()]
            BOARD.expect(progress, sum(todo))
        return chunks

    def chunks(self, folder: Path) -> list[ChunkTask]:
        """Return the tasks of a folder of frozen lists."""
        assert self.chunk_task is not None
        return [
            self.sibling(self.chunk_task, plan=folder.name, chunk=chunk)
            for chunk in range(len(read_frozen(folder).units))
        ]

    def carry_out(self) -> Iterator[Any]:
        """Do the stage's work and write its receipt, or wait until others have done so."""
        if self.is_wish:
            self.wait_until(self.stands, self.title)
            run.end(self.place)
            _wishes_granted.value = True
        elif not self.asked_by:
            yield from super().carry_out()
            self._conclude()
        elif not self.stands():
            self.wait_until(lambda: self.input_digest() != "", self.title)
            with self.at_desk():
                for chunks in self.work() or ():
                    self._see_done(chunks)
                self._conclude()

    def deal(self) -> None:
        """Write the work lists, and leave the rest to others."""
        if self.stands():
            return
        self.wait_until(lambda: self.input_digest() != "", self.title)
        if not is_frozen(self.plan_folder):
            with self.at_desk():
                next(iter(self.work() or ()), None)

    @contextlib.contextmanager
    def at_desk(self) -> Iterator[None]:
        """Have the stage work on copies of its databases."""
        with lay_out(self.place.identified, reads=self.reads, writes=self.writes) as desk:
            self._desk = desk
            try:
                yield
            finally:
                self._desk = None

    def _put_back(self) -> None:
        """Put back what was changed on copies, unless somebody else has ended this run meanwhile."""
        if self._desk is not None:
            if not run.is_under_way(self.place):
                raise OvertakenError
            self._desk.put_back()

    def _see_done(self, chunks: list[ChunkTask]) -> None:
        """Wait until the outcomes of chunks are seen here, and do those that are not after all."""
        with contextlib.suppress(StorageError):
            self.wait_until(lambda: all(chunk.complete() for chunk in chunks), self.title)
        for chunk in chunks:
            if not chunk.complete():
                chunk.work()

    def _conclude(self) -> None:
        """Write the receipt, which is the last act of a stage, when what it speaks of is in its place."""
        assert self._receipt is not None
        self._put_back()
        # What this run wrote is complete; what is unfinished was left by one that was cut off.
        sweep_temporaries(self.place.identified, deep=False)
        for folder in (self.place.plans, self.place.receipts, self.place.lists):
            sweep_temporaries(folder)
        write_receipt(self.place.receipts, self._receipt)
        self.forget_plans()
        if not self.asked_by:
            run.end(self.place)

    def finish(self, **facts: Any) -> None:
        """Say what this stage did: the last act of its work."""
        self._receipt = Receipt(
            stage=self.stage,
            software=__version__,
            settings_digest=self.settings_digest(),
            finished=now().isoformat(timespec="seconds"),
            **{"input_digest": self.input_digest(), **facts},
        )

    def process_resources(self) -> Any:
        """Return what of shared things the task takes up; asked by Luigi again when it ends."""
        if self.is_wish and _wishes_granted.value:
            run.tell_luigi_that_all_is_done()
        return super().process_resources()  # type: ignore[no-untyped-call] # Luigi's

    def forget_plans(self, *, but: Path | None = None) -> None:
        """Remove this stage's work lists: its receipt stands, or they are of earlier runs."""
        for plan in self.place.plans.glob(f"{self.stage}-*"):
            if plan != but:
                forget(plan)


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


def say_nothing_of_what_was_seen() -> None:
    """Leave out of the last summary what was only looked at."""
    _seen.clear()


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
