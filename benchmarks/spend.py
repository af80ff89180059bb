"""Runs a command and writes down what it and its children took: spend.py RESULT COMMAND...

A child begins as a copy of the process that starts it, whose memory counts as its own until it becomes another program.
So the one that starts it is this, which is small.
"""

from __future__ import annotations

import json
import os
import sys
import time


def busy_seconds() -> float:
    """Return how long all cores together were busy since the machine started, with whatever."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _waiting, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    result, *command = sys.argv[1:]
    busy = busy_seconds()
    begin = time.perf_counter()
    _, status, usage = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
    wall = time.perf_counter() - begin
    cpu = usage.ru_utime + usage.ru_stime
    spent = {
        "wall": wall,
        "cpu": cpu,
        "others": max(0.0, busy_seconds() - busy - cpu) / wall,
        "peak": usage.ru_maxrss * 1024,
        "from_disk": usage.ru_inblock * 512,
    }
    with open(result, "w", encoding="utf-8") as file:
        json.dump(spent, file)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
