"""What several hosts gain, what Luigi costs, and what the file server is asked: measured on one machine.

hosts     CPU-bound de-identification by one host and by two, each a network namespace with one core of its own, under
          one luigid over one folder; and the same by one host with two workers, for comparison.
overhead  A dump of tiny files sorted by one worker: how much of the wall time is not the work of a task, how many tasks
          there are, and how long a second run takes which finds nothing to do.
model     The hours that 10 million files take, from what the other measurements gave (in this file, each with its
          command): a model, printed beside the points that were measured, and drawn.
calls     What a file costs the file server: system calls that name a file or ask for one, counted by strace for two
          sizes of a dump, so that what a run costs once falls out.

Run, as root: .venv/bin/python benchmarks/scale.py hosts|overhead|calls|model [--files N]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chart import Bar, Panel, draw_chart
from measure import print_table

HERE = Path(__file__).resolve().parent
PROGRAMS = Path(sys.executable).parent
SHIPPED = HERE.parent / "configs" / "luigid" / "luigi.cfg"
PORT = 8082
BRIDGE, SCHEDULER = "scanward0", "10.213.7.1"
TINY = 560
"""Bytes of a tiny file."""
ROUND_TRIPS = {
    "look up and open": ("openat", "open", "creat"),
    "ask for attributes": ("stat", "lstat", "newfstatat", "statx", "access", "faccessat2"),
    "link or rename": ("link", "linkat", "rename", "renameat2"),
    "remove": ("unlink", "unlinkat"),
    "list folders": ("getdents64",),
    "make durable": ("fsync",),
    "read": ("read", "pread64"),
    "write": ("write",),
}
"""What goes to a file server, as a rule one round trip a call."""


def luigi_words(task: str, study: Path, *more: str) -> list[str]:
    """Spell out a command."""
    return [str(PROGRAMS / "luigi"), "--module", "pipelines", task, "--study", str(study), *more]


def make_study(folder: Path, dump: Path, *, more: str = "") -> Path:
    """Write a study file with a fixed secret, so that every run makes the same."""
    identified = folder / "w" / "identified"
    identified.mkdir(parents=True, mode=0o700)
    (identified / "secret").write_bytes(bytes(32))
    (identified / "secret").chmod(0o600)
    study = folder / "study.toml"
    study.write_text(f"dump = {json.dumps(str(dump))}\nworkspace = {json.dumps(str(folder / 'w'))}\n{more}")
    return study


def run(words: Sequence[str], **more: object) -> float:
    """Run a command to its end and return its seconds."""
    begin = time.perf_counter()
    ended = subprocess.run(words, check=False, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    if ended.returncode:
        sys.exit(f"{words}: {ended.returncode}\n{ended.stderr[-2000:]}")
    return time.perf_counter() - begin


# Several hosts --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def network(hosts: int) -> Iterator[list[str]]:
    """Make network namespaces that reach this one and each other over a bridge; yields their names."""
    names = [f"scanward-{number}" for number in range(hosts)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    _remove_network(names)
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("address", "add", f"{SCHEDULER}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"sw-{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"sw-{number}", "master", BRIDGE, "up")
            ip("-n", name, "address", "add", f"10.213.7.{10 + number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        _remove_network(names)


def _remove_network(names: Sequence[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)


@contextlib.contextmanager
def luigid(folder: Path) -> Iterator[None]:
    """Run a scheduler that the hosts reach."""
    words = [
        str(PROGRAMS / "luigid"),
        "--address",
        SCHEDULER,
        "--port",
        str(PORT),
        "--state-path",
        str(folder / "state"),
    ]
    with (folder / "luigid.log").open("wb") as log:
        process = subprocess.Popen(
            words, env={**os.environ, "LUIGI_CONFIG_PATH": str(SHIPPED)}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        time.sleep(2)
        yield
    finally:
        process.kill()
        process.wait()


def measure_hosts(files: int, folder: Path) -> None:
    """Measure one host and two."""
    dump = folder / "dump"
    run([sys.executable, str(HERE / "dump.py"), str(dump), "--files", str(files)])
    more = "[hosts]\nplain_http = true\n[chunks]\nexport_instances = 200\n"
    rows = []
    with network(2) as names, luigid(folder):
        url = f"http://{SCHEDULER}:{PORT}"
        for cores in ((0,), (0, 1)):
            at = folder / f"hosts-{len(cores)}"
            at.mkdir()
            study = make_study(at, dump, more=more)
            run(luigi_words("HarvestIdentifiers", study, "--workers", "2"))
            words = luigi_words("DeidentifyStudy", study, "--workers", "1", "--scheduler-url", url)
            begin = time.perf_counter()
            processes = [
                subprocess.Popen(
                    ["ip", "netns", "exec", names[core], "taskset", "-c", str(core), *words],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for core in cores
            ]
            codes = [process.wait() for process in processes]
            if any(codes):
                sys.exit(f"The hosts ended with {codes}.")
            rows.append((len(cores), time.perf_counter() - begin, _digest_of(at / "w" / "released")))
    if len({digest for *_, digest in rows}) != 1:
        sys.exit("The hosts did not make the same.")
    first = rows[0][1]
    print_table(
        f"De-identifying {files:,} files: hosts with one core each, the same bytes from both",
        ("hosts", "seconds", "files a second", "times one host"),
        [(f"{hosts}", f"{s:.1f}", f"{files / s:,.0f}", f"{first / s:.2f}") for hosts, s, _ in rows],
    )


def _digest_of(folder: Path) -> str:
    words = ["bash", "-c", "find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"]
    return subprocess.run(words, check=True, capture_output=True, text=True, cwd=folder).stdout


# What Luigi costs -----------------------------------------------------------------------------------------------------


def write_tiny_files(folder: Path, files: int) -> None:
    """Write files that are hardly more than a header: classic MR images of 200 slices a series, with one pixel."""
    # A header is written once and its numbers, all of one width, are overwritten.
    sys.path.insert(0, str(HERE.parent))
    from tests.builders.world import make_instance, write_instance  # noqa: PLC0415 - not of this folder

    numbers = {"SOPInstanceUID": "1.2.3.9999999999", "SeriesInstanceUID": "1.2.4.9999999999", "InstanceNumber": "99999"}
    model = folder.with_name("model")
    write_instance(model, make_instance(1, 1, 1, 1, **numbers))
    content = model.read_bytes()
    model.unlink()
    for below in range(-(-files // 10_000)):
        (folder / f"{below:04d}").mkdir(parents=True)
    for count in range(files):
        series, place = divmod(count, 200)
        data = content.replace(b"1.2.3.9999999999", b"1.2.3.%010d" % (count + 1_000_000_000))
        data = data.replace(b"1.2.4.9999999999", b"1.2.4.%010d" % (series + 1_000_000_000)).replace(
            b"99999", b"%05d" % (place + 1)
        )
        with open(folder / f"{count // 10_000:04d}" / f"{count:08x}", "wb") as stream:
            stream.write(data)


_TIMED = """
import sys, time, atexit
begin = time.perf_counter()
spent, tasks, running = [0.0], set(), [False]
import luigi
from luigi.cmdline import luigi_run
import pipelines.base as base
loaded = time.perf_counter()
def timed(method):
    return lambda self, *a, **k: _steps(method(self, *a, **k))
def _steps(generator):
    while True:
        tick = time.perf_counter()
        running[0] = True
        try:
            wanted = next(generator)
        except StopIteration:
            return
        finally:
            running[0] = False
            spent[0] += time.perf_counter() - tick
        yield wanted
base.StudyTask.run = timed(base.StudyTask.run)
looked, depth = base.StageTask.complete, [0]
def complete(self):
    # One asks for another; and a task that runs is counted as a whole.
    tick = time.perf_counter()
    depth[0] += 1
    try:
        return looked(self)
    finally:
        depth[0] -= 1
        if not depth[0] and not running[0]:
            spent[0] += time.perf_counter() - tick
base.StageTask.complete = complete
from luigi.worker import Worker
add = Worker._add_task
def counted(self, *a, **k):
    tasks.add(k["task_id"])
    return add(self, *a, **k)
Worker._add_task = counted
@atexit.register
def tell():
    wall = time.perf_counter() - begin
    print(f"WALL {wall:.2f} WORK {spent[0]:.2f} LOAD {loaded - begin:.2f} TASKS {len(tasks)}", flush=True)
sys.argv = ["luigi", *sys.argv[1:]]
luigi_run()
"""


def measure_overhead(files: int, folder: Path) -> None:
    """Measure what is not work."""
    dump = folder / "dump"
    write_tiny_files(dump, files)
    study = make_study(folder, dump)
    rows = []
    for name in ("from nothing", "again, nothing new"):
        words = luigi_words("SortStudy", study, "--workers", "1")[1:]
        ended = subprocess.run([sys.executable, "-c", _TIMED, *words], check=False, capture_output=True, text=True)
        if ended.returncode:
            sys.exit(ended.stderr[-2000:])
        found = re.search(r"WALL (\S+) WORK (\S+) LOAD (\S+) TASKS (\d+)", ended.stdout)
        if found is None:
            sys.exit(ended.stdout[-2000:])
        wall, work, load = (float(found[number]) for number in (1, 2, 3))
        rows.append(
            (
                name,
                f"{wall:.1f}",
                f"{work:.1f}",
                f"{wall - work - load:.2f}",
                f"{(wall - work - load) / wall:.1%}",
                found[4],
            )
        )
    print_table(
        f"SortStudy on {files:,} tiny files, one worker; Luigi is what is neither a task's work nor loading",
        ("run", "wall s", "work s", "Luigi s", "Luigi", "tasks"),
        rows,
    )


# What a file server is asked ------------------------------------------------------------------------------------------


def count_calls(task: str, files: int, folder: Path) -> Counter[str]:
    """Count the system calls of a task from nothing that have to do with the dump or the workspace, by name."""
    dump = folder / "dump"
    run([sys.executable, str(HERE / "dump.py"), str(dump), "--files", str(files)])
    study = make_study(folder, dump)
    before = {"HarvestIdentifiers": "SortStudy", "DeidentifyStudy": "HarvestIdentifiers"}
    if task in before:
        run(luigi_words(before[task], study))
    trace = folder / "trace"
    names = ",".join(name for names in ROUND_TRIPS.values() for name in names)
    run(["strace", "-f", "-y", "-o", str(trace), "-e", f"trace={names}", *luigi_words(task, study, "--workers", "1")])
    counts: Counter[str] = Counter()
    with trace.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # A call that another thread's interrupts is written in two lines, of which the first has its words.
            found = re.match(r"\d+ +(\w+)\(", line)
            if found and str(folder) in line:
                counts[found[1]] += 1
    return counts


def measure_calls(files: int, folder: Path) -> None:
    """Print the calls a file costs: the difference of two sizes."""
    rows = []
    for task in ("SortStudy", "HarvestIdentifiers", "DeidentifyStudy"):
        small, large = files // 2, files
        counted = []
        for size in (small, large):
            at = folder / f"{task}-{size}"
            at.mkdir()
            counted.append(count_calls(task, size, at))
            shutil.rmtree(at)
        a_file = {
            kind: sum(counted[1][name] - counted[0][name] for name in names) / (large - small)
            for kind, names in ROUND_TRIPS.items()
        }
        rows.append((task, *(f"{value:.2f}" for value in a_file.values()), f"{sum(a_file.values()):.1f}"))
    print_table("System calls a file on the dump and the workspace", ("task", *ROUND_TRIPS, "all"), rows)


# What that comes to ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a file costs a stage, as measured on one machine of this repository's.

    Attributes
    ----------
    core
        Seconds of a core, on any host.
    alone
        Seconds of the one process that puts together what the others made.
    calls
        Round trips to the file server, nothing of it remembered by the client.
    """

    core: float
    alone: float
    calls: float

    def seconds(self, files: int, *, cores: int, server: float = float("inf")) -> float:
        """Return how long the stage takes with so many cores, of a server that answers so many calls a second."""
        return files * (self.alone + max(self.core / cores, self.calls / server))


ALONE = 19.0e-6
"""scale_plan.py --rows 2000000: what chunks read is merged, the index is finished, the plan, the lists."""

SORT = Stage(core=81.0e-6 - ALONE, alone=ALONE, calls=4.6)
"""overhead --files 1000000, and calls."""

DEIDENTIFY = Stage(core=73.6 / 20_000, alone=0.0, calls=69.0)
"""hosts --files 20000, the line of one host; and calls. What one process alone does was too little to be told apart."""

MEASURED = (
    ("sort, 1 worker", SORT, 250_000, 1, 21.1),
    ("sort, 1 worker (the model's own)", SORT, 1_000_000, 1, 81.0),
    ("de-identify, 1 host (the model's own)", DEIDENTIFY, 20_000, 1, 73.6),
    ("de-identify, 2 hosts", DEIDENTIFY, 20_000, 2, 36.7),
)
"""What was measured: stage, files, cores, seconds."""

LARGE = 10_000_000
CORES_A_HOST = 8
SERVERS = {"local or parallel storage": float("inf"), "20,000 calls a second": 2e4, "2,000 calls a second": 2e3}


def model(_files: int, _folder: Path) -> None:
    """Print the model beside the measured points, and draw it."""
    print_table(
        "The model beside what was measured",
        ("what", "files", "model s", "measured s", "off by"),
        [
            (name, f"{files:,}", f"{told:.1f}", f"{seconds:.1f}", f"{told / seconds - 1:+.0%}")
            for name, stage, files, cores, seconds in MEASURED
            for told in (stage.seconds(files, cores=cores),)
        ],
    )
    panels = []
    for title, stage in (("Sort", SORT), ("De-identify", DEIDENTIFY)):
        hours = {
            (hosts, server): stage.seconds(LARGE, cores=hosts * CORES_A_HOST, server=rate) / 3600
            for server, rate in SERVERS.items()
            for hosts in (1, 2, 4, 8)
        }
        print_table(
            f"{title} {LARGE:,} files, {CORES_A_HOST} cores a host: hours (model)",
            ("file server", "1 host", "2 hosts", "4 hosts", "8 hosts"),
            [(server, *(f"{hours[hosts, server]:.1f}" for hosts in (1, 2, 4, 8))) for server in SERVERS],
        )
        panels.append(
            Panel(
                title=f"{title} {LARGE:,} files: hours, a model",
                note=f"{CORES_A_HOST} cores a host; blue where the cores set the pace, grey where the file server does",
                bars=[
                    Bar(
                        label=f"{hosts} host{'s' if hosts > 1 else ''}, {server}",
                        value=told,
                        text=f"{told:.1f} h",
                        ours=stage.core / (hosts * CORES_A_HOST) >= stage.calls / SERVERS[server],
                    )
                    for (hosts, server), told in hours.items()
                ],
            )
        )
    draw_chart(panels, HERE / "scale.png")


MEASURES = {
    "hosts": (measure_hosts, 20_000),
    "overhead": (measure_overhead, 1_000_000),
    "calls": (measure_calls, 4_000),
    "model": (model, 0),
}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--files", type=int)
    options = parser.parse_args()
    act, files = MEASURES[options.what]
    folder = Path(tempfile.mkdtemp(prefix="scanward-scale-"))
    try:
        act(options.files or files, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
