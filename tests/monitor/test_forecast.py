"""A forecast is right where there is a line to be seen, and silent where there is none."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.monitor.forecast import FEWEST, Horizon, forecast

DISK = 4e12
HORIZON = Horizon()


def _linear(chance: random.Random, nights: int) -> list[float]:
    rate, start = chance.uniform(0.005, 0.02) * DISK, chance.uniform(0, 0.1) * DISK
    return [start + rate * night + chance.gauss(0, 0.05) * rate for night in range(nights)]


def _weekends(chance: random.Random, nights: int) -> list[float]:
    rate, used, found = chance.uniform(0.008, 0.02) * DISK, 0.0, []
    for night in range(nights):
        used += rate * chance.uniform(0.8, 1.2) * (night % 7 < 5)
        found.append(used)
    return found


def _migration(chance: random.Random, nights: int) -> list[float]:
    used = _linear(chance, nights)
    at, much = chance.randrange(5, 25), chance.uniform(0.1, 0.3) * DISK
    return [value + (much if night >= at else 0) for night, value in enumerate(used)]


def _sawtooth(chance: random.Random, nights: int) -> list[float]:
    rate, keep, found, used = chance.uniform(0.01, 0.03) * DISK, chance.randrange(8, 15), [], 0.3 * DISK
    for night in range(nights):
        used = 0.3 * DISK if night % keep == 0 else used + rate * chance.uniform(0.9, 1.1)
        found.append(used)
    return found


def _full_at(used: list[float]) -> int | None:
    return next((night for night, value in enumerate(used) if value >= DISK), None)


def test_seven_days_before_a_disk_is_full_the_forecast_is_right() -> None:
    chance = random.Random(1)
    errors = []
    for number in range(150):
        used = (_linear, _weekends, _migration)[number % 3](chance, 400)
        full = _full_at(used)
        assert full is not None
        now = full - 7
        if now < FEWEST:
            continue
        found = forecast(range(now + 1), used[: now + 1], DISK - used[now])
        assert found is not None, "no miss with days of linear growth behind it"
        errors.append(abs(found.days - 7) / 7)
        assert found.soonest <= found.days <= found.latest
    assert len(errors) > 130
    assert np.median(errors) <= 0.15


def test_what_is_purged_again_and_again_is_no_alarm() -> None:
    chance = random.Random(2)
    alarms = nights = 0
    for _ in range(50):
        used = _sawtooth(chance, 365)
        was_alarm = False
        for now in range(FEWEST, 365):
            found = forecast(range(max(0, now - 40), now + 1), used[max(0, now - 40) : now + 1], DISK - used[now])
            is_alarm = (
                found is not None and used[now] / DISK > HORIZON.least_used and found.days <= HORIZON.critical_days
            )
            alarms += is_alarm and not was_alarm
            was_alarm = is_alarm
            nights += 1
    assert alarms / (nights / 365) <= 1


def test_a_purge_begins_a_new_line() -> None:
    used = [*(3e12 + 1e10 * night for night in range(20)), *(1e12 + 5e10 * night for night in range(8))]
    found = forecast(range(28), used, DISK - used[-1])
    assert found is not None
    assert found.nights == 8
    assert found.per_day == pytest.approx(5e10)
    assert forecast(range(23), used[:23], DISK - used[22]) is None, "three nights are no line"


@given(st.lists(st.floats(0, 1e15), max_size=40), st.floats(0, 1e15))
def test_it_never_fails_and_never_promises_the_past(used: list[float], available: float) -> None:
    found = forecast(range(len(used)), used, available)
    if found is not None:
        assert found.per_day > 0
        assert 0 <= found.soonest <= found.days <= found.latest
        assert not math.isnan(found.days)


@given(st.floats(-1e9, 0), st.integers(FEWEST, 40))
def test_what_does_not_fill_is_not_foretold(rate: float, nights: int) -> None:
    used = [1e12 + rate * night for night in range(nights)]
    assert forecast(range(nights), used, 1e12) is None
