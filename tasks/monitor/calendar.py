"""When scans should come, and when problems are no news, by a site's own clock and calendar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from tasks.errors import UsageError

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time of the week, by the wall clock of the site; one that ends before it begins ends on the next day.

    Attributes
    ----------
    weekday
        0 for Monday.
    begin, end
        Wall clock; in the hour that a change of the clock leaves out nothing is within, in the doubled one both are.
    """

    weekday: int
    begin: time
    end: time

    def holds(self, moment: datetime) -> bool:
        """Tell whether a moment in the site's zone is within it."""
        clock, day = moment.time(), moment.weekday()
        if self.begin < self.end:
            return day == self.weekday and self.begin <= clock < self.end
        return (day == self.weekday and clock >= self.begin) or (day == (self.weekday + 1) % 7 and clock < self.end)


def parse_window(text: str) -> Window:
    """Read "sun 02:00-06:00".

    Raises
    ------
    UsageError
        If it is of another form.
    """
    try:
        day, _, span = text.partition(" ")
        begin, _, end = span.partition("-")
        return Window(weekday=WEEKDAYS.index(day), begin=time.fromisoformat(begin), end=time.fromisoformat(end))
    except ValueError:
        raise UsageError(problem=f"{text!r} is no time of the week.", remedy="Write it as: sun 02:00-06:00.") from None


def zone_of(name: str) -> ZoneInfo:
    """Give a time zone.

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            problem=f"There is no time zone {name!r}.",
            remedy="Give one as Australia/Perth; the package tzdata has them.",
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """A site's own time.

    Attributes
    ----------
    zone
        Where it lies.
    scan_days
        Weekdays on which scans should come, 0 for Monday.
    holidays
        Country and state, such as "AU-WA"; empty for none.
    closed
        Further dates without scans.
    maintenance
        When problems are no news.
    """

    zone: ZoneInfo
    scan_days: frozenset[int] = frozenset(range(5))
    holidays: str = ""
    closed: frozenset[date] = frozenset()
    maintenance: Sequence[Window] = ()

    def is_scan_day(self, day: date) -> bool:
        """Tell whether scans should come on a date of the site's."""
        return day.weekday() in self.scan_days and day not in self.closed and not _is_holiday(self.holidays, day)

    def expects_scans(self, moment: datetime) -> bool:
        """Tell whether the day before a night's moment was one on which scans should have come.

        The watch runs at night: what is in the inbox by then came on the day that has just ended, or ends.
        """
        return self.is_scan_day((moment.astimezone(self.zone) - timedelta(hours=12)).date())

    def is_in_maintenance(self, moment: datetime) -> bool:
        """Tell whether problems at a moment are no news."""
        return any(window.holds(moment.astimezone(self.zone)) for window in self.maintenance)


@lru_cache(maxsize=64)
def _calendar(place: str, year: int) -> frozenset[date]:
    import holidays  # noqa: PLC0415 - loaded where it is used

    country, _, state = place.partition("-")
    try:
        return frozenset(holidays.country_holidays(country, subdiv=state or None, years=year))
    except NotImplementedError:
        raise UsageError(
            problem=f"The holidays of {place!r} are not known.",
            remedy="Give a country and state such as AU-WA, NZ, TW.",
        ) from None


def _is_holiday(place: str, day: date) -> bool:
    return bool(place) and day in _calendar(place, day.year)
