"""Sort many dumps, one a site and day: `SortDays` for a range of days, `SortDay` for one of them.

Each day has a workspace of its own and is sorted by a command of its own, so that no day can stop or delay another, and
whatever a run keeps in memory is of one day.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import luigi

from pipelines.base import DEFAULT_STUDY_FILE, hidden_path, now, say_and_exit, say_nothing_of_what_was_seen
from pipelines.sort import SortStudy
from tasks.config import DaysSettings, read_study
from tasks.errors import DayError, ScanwardError, UsageError
from tasks.logs import LOGGER, sentence_for


@lru_cache(maxsize=1)
def _days_of(study: str | None) -> DaysSettings:
    """Read `[days]` of a study file, once a process."""
    path = Path(study or DEFAULT_STUDY_FILE)
    if study is None and not path.exists():
        raise UsageError(
            problem=f"No study was given, and there is no {DEFAULT_STUDY_FILE} in this folder.",
            remedy="Give --study FILE.toml, or write one with `scanward init`.",
        )
    days = read_study(path).days
    if not days.sites:
        raise UsageError(
            problem="The study file names no site whose days are to be sorted.",
            remedy="Add [days] with sites, dump and workspace as `scanward init` shows.",
        )
    return days


class _OfDays(luigi.Task):
    """What belongs to the days of a study.

    Attributes
    ----------
    study
        The study file; never shown.
    """

    study = hidden_path()

    @property
    def days(self) -> DaysSettings:
        """The sites, and where their days lie."""
        try:
            return _days_of(self.study)
        except ScanwardError as fault:
            say_and_exit(fault)


class SortDay(_OfDays):
    """Sort what one site has sent on one day; a folder that is not there is a day on which nothing came.

    Attributes
    ----------
    site
        One of `[days] sites`.
    date
        The day.
    """

    site = luigi.Parameter()
    date = luigi.DateParameter()

    @property
    def priority(self) -> int:  # type: ignore[override] # Luigi's own way to have it computed
        """The newest day comes first."""
        return int(self.date.toordinal())

    @property
    def words(self) -> dict[str, str]:
        """Where the day lies and what becomes of it, as `SortStudy` is told."""
        named = {"site": self.site, "date": self.date.isoformat()}
        days = self.days
        return {
            "study": str(Path(self.study or DEFAULT_STUDY_FILE).resolve()),
            "dump": str(days.dump).format(**named),
            "workspace": str(days.workspace).format(**named),
        }

    def complete(self) -> bool:
        """Tell whether all of the day is sorted as it lies there now, or nothing has come."""
        if self.site not in self.days.sites:
            say_and_exit(UsageError(problem="[days] does not name this site.", remedy="Look at --site."))
        try:
            return (self._is_mounted() and not Path(self.words["dump"]).exists()) or self._stands()
        except ScanwardError:
            # Its own command says what is wrong.
            return False

    def _is_mounted(self) -> bool:
        """Tell whether the folder is there in which a site's days appear."""
        fixed = str(self.days.dump).format(site=self.site, date="\0").partition("\0")[0]
        return Path(fixed if fixed.endswith("/") else os.path.dirname(fixed)).is_dir()

    def _stands(self) -> bool:
        words = self.words
        if not (self._is_mounted() and Path(words["workspace"], "identified").is_dir()):
            return False
        task: Any = SortStudy.for_study(**words)
        stands = bool(task.stands())
        say_nothing_of_what_was_seen()
        return stands

    def run(self) -> None:
        """Sort the day, in a process of its own.

        Raises
        ------
        DayError
            If that did not end well; the other days go on.
        """
        if not self._is_mounted():
            self._fail("the folder in which its days appear is not there: it may not be mounted")
        words = self.words
        command = [sys.executable, "-m", "luigi", "--module", "pipelines", "SortStudy", "--local-scheduler"]
        command += [part for name in ("study", "dump", "workspace") for part in (f"--{name}", words[name])]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        said = ended.stderr.splitlines()
        if ended.returncode:
            faults = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")] or said[-1:]
            self._fail(f"it ended with {ended.returncode}. {faults[0] if faults else ''}".rstrip(" ."))
        for line in said:
            if line.startswith(f"{SortStudy.title}: "):
                LOGGER.info("%s, %s: %s", self.site, self.date, line.removeprefix(f"{SortStudy.title}: "))

    def _fail(self, problem: str) -> None:
        raise DayError(site=self.site, date=self.date.isoformat(), problem=problem)

    def on_failure(self, exception: BaseException) -> str:
        """Tell the scheduler of a fault in one sentence."""
        return sentence_for(exception)


class SortDays(_OfDays, luigi.WrapperTask):
    """Sort what all sites have sent in a range of days, the newest first; days that are sorted cost a glance.

    Attributes
    ----------
    since, until
        The first day and the last; today is the last if it is not given.
    days_back
        Without `since`: so many days up to the last.
    site
        Only this one.
    """

    since = luigi.Parameter(default="")
    until = luigi.Parameter(default="")
    days_back = luigi.IntParameter(default=2)
    site = luigi.Parameter(default="")

    def requires(self) -> list[SortDay]:
        """Ask for each day of each site."""
        last = _day(self.until) if self.until else now().astimezone().date()
        first = _day(self.since) if self.since else last - dt.timedelta(days=self.days_back - 1)
        if first > last:
            say_and_exit(UsageError(problem=f"{first} is behind {last}.", remedy="Give --since before --until."))
        every = [last - dt.timedelta(days=back) for back in range((last - first).days + 1)]
        sites = [self.site] if self.site else self.days.sites
        kind: Any = SortDay
        return [kind(study=self.study, site=site, date=day) for day in every for site in sites]


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        say_and_exit(UsageError(problem=f"{text[:40]!r} is no day.", remedy="Give it as YYYY-MM-DD."))
