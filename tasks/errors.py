"""Every fault a person can meet: its sentence, its exit code, whether trying again helps, and what to do."""

from __future__ import annotations

from typing import ClassVar


class ScanwardError(Exception):
    """The root of every expected fault.

    A subclass states its `sentence` with named gaps; the gaps are filled from keyword arguments, so that one class
    always reads the same. Facts given here are shown on screens and in logs: never hand in a value read from an image.

    Attributes
    ----------
    sentence
        What is wrong, one sentence, with `{names}` for the facts.
    hint
        What to do about it, one sentence, or empty. The same gaps may be used.
    exit_code
        What the process ends with when this fault ends it.
    retry
        True if the same act may succeed later without anybody changing anything.
    """

    sentence: ClassVar[str] = "scanward stopped."
    hint: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1
    retry: ClassVar[bool] = False

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        text = self.sentence.format(**facts)
        if self.hint:
            text += " " + self.hint.format(**facts)
        super().__init__(text)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only construction has to be spelled out, or the fault cannot travel back from a worker process.
        return (_rebuild, (type(self), self.facts))


def _rebuild(kind: type[ScanwardError], facts: dict[str, object]) -> ScanwardError:
    return kind(**facts)


class UsageError(ScanwardError):
    """The command's words do not fit together."""

    sentence = "{problem}"
    hint = "{remedy}"
    exit_code = 2


class StudyFileError(ScanwardError):
    """The study file cannot be used; all its faults are listed at once."""

    sentence = "The study file {path} cannot be used: {faults}."
    hint = "Correct it, or write a fresh one with `scanward init`."
    exit_code = 3


class DumpError(ScanwardError):
    """The dump is not there or not readable."""

    sentence = "The dump folder {path} {problem}."
    hint = "Give the folder that holds the scanner's files with --dump or in the study file."
    exit_code = 4


class WorkspaceError(ScanwardError):
    """The workspace cannot be written."""

    sentence = "The workspace {path} {problem}."
    hint = "Choose a folder you may write with --workspace or in the study file."
    exit_code = 5


class DiskFullError(ScanwardError):
    """The disk ran full; what was finished stays."""

    sentence = "There is no space left for the workspace {path}."
    hint = "Make room and start the same command again: it goes on where it stopped."
    exit_code = 5
    retry = True


class ManifestError(ScanwardError):
    """A review manifest cannot be read, or does not say what it must."""

    sentence = "The manifest {path} cannot be used: {problem}."
    hint = "Make it again with `luigi --module pipelines PrepareReview`."
    exit_code = 6


class MissingPackageError(ScanwardError):
    """A part of scanward was asked for whose packages are not installed."""

    sentence = "{purpose} needs the package {package}, which is not installed."
    hint = "Install it with: pip install 'scanward[{extra}]'."
    exit_code = 7


class UnaccountedError(ScanwardError):
    """The sums of a stage do not close: files went in that did not come out anywhere."""

    sentence = "{stage} cannot account for {count} of {total} files."
    hint = "Nothing was removed. Keep the workspace as it is and report this as a fault of scanward."
    exit_code = 8


class KeyMapError(ScanwardError):
    """The key map, its passphrase, the secret or a list of patients cannot be used."""

    sentence = "The {what} {path} cannot be used: {problem}."
    hint = "{remedy}."
    exit_code = 9


class DamagedRecordError(ScanwardError):
    """A file that scanward itself wrote no longer reads as it was written."""

    sentence = "{path}, which scanward wrote, cannot be read: {problem}."
    hint = "Delete it and start the same command again: it is made anew."
    exit_code = 11


class CollisionError(ScanwardError):
    """A place in the tree is taken by something that scanward did not put there."""

    sentence = "{count} places in {path} are taken by files that scanward did not put there."
    hint = "Move them away and start the same command again; nothing was overwritten."
    exit_code = 12


class PackageConflictError(ScanwardError):
    """Another distribution owns one of the names pipelines, tasks or viewer in this environment."""

    sentence = "The package name {name} belongs to {stranger} in this environment."
    hint = "Install scanward into an environment of its own."
    exit_code = 13


class RecoveryError(ScanwardError):
    """What the Encrypted Attributes Sequence is made or read with cannot be used, or the file holds none that opens."""

    sentence = "The {what} {path} cannot be used: {problem}."
    hint = "{remedy}."
    exit_code = 14


class RatingsError(ScanwardError):
    """A reader's ratings cannot be read, written or trusted."""

    sentence = "The ratings {path} cannot be used: {problem}."
    hint = "{remedy}."
    exit_code = 15


class OpeningError(ScanwardError):
    """A file cannot be shown as an image."""

    sentence = "{name} cannot be shown: {problem}."
    hint = "{remedy}."
    exit_code = 16


class MailError(ScanwardError):
    """A report did not reach its readers."""

    sentence = "The mail {what} {problem}."
    hint = "It stays in the spool and is sent with the next run; look at [mail] in the study file and at the relay."
    exit_code = 17


class SchedulerError(ScanwardError):
    """The scheduler that several hosts share does not answer, must not be trusted, or waits for another version."""

    sentence = "The scheduler {problem}."
    hint = "{remedy}."
    exit_code = 18


class StorageError(ScanwardError):
    """What another host wrote on the shared storage does not show up on this one."""

    sentence = "What {stage} needs was made on another host and is not seen on this one after {seconds} seconds."
    hint = "Look at the mount (README, Growing), and start the same command again: it goes on where it stopped."
    exit_code = 19


class OvertakenError(ScanwardError):
    """Another host took this one for dead and did its work."""

    sentence = "Another host has done this piece of work meanwhile."
    hint = "Nothing is lost; start the same command again."
    exit_code = 21
    retry = True


class ClusterError(ScanwardError):
    """Slurm is not there, or refuses what it was asked."""

    sentence = "{problem}."
    hint = "{remedy}."
    exit_code = 22


class DayError(ScanwardError):
    """What one site has sent on one day could not be sorted."""

    sentence = "{site}, {date}: {problem}."
    hint = "The other days went on; the same command tries this one again."
    exit_code = 23


def error_table() -> list[tuple[int, str, str, str]]:
    """List every fault with what a person needs to know of it.

    Returns
    -------
    list of (exit code, class name, meaning, retry)
        Sorted by exit code, then name; `retry` is "yes" or "no".
    """
    rows = []
    for kind in ScanwardError.__subclasses__():
        meaning = (kind.__doc__ or "").strip().splitlines()[0]
        rows.append((kind.exit_code, kind.__name__, meaning, "yes" if kind.retry else "no"))
    return sorted(rows)
