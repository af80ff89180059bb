"""How fast a dump is indexed and sorted, beside its peers on the same files in one run.

It builds a dump of 100,000 files (3 GB, removed at the end; `dump.py` says how), and measures on it: headers read on
one core; the whole of `luigi --module pipelines SortStudy`, from nothing and again on the unchanged dump; and headers
read on cold pages. What is slow is measured on a sample and scaled, and marked so. Every contender runs in a process of
its own: CPU time and memory are those of this process and its children, and a crash is told and harms no other.

Run: .venv/bin/python benchmarks/sort.py (after `make bench`, which installs the peers; one that is missing is left out)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dump import data_folder
from measure import print_table

HERE = Path(__file__).resolve().parent
REAL_SETS = ("dcm_qa_nih", "dcm_qa_stc", "dcm_qa_uih", "dcm_qa_philips", "dcm_qa_enh")

RAW = "8 KiB of each, nothing read out of them"
PEER_MODULES = {
    "dicomsdl, up to the last value": "dicomsdl",
    "dicomsdl": "dicomsdl",
    "python-gdcm Scanner": "gdcm",
    "pydicom read_partial": "pydicom",
    "pydicom": "pydicom",
}
SLOW_READERS = ("pydicom read_partial", "pydicom", "python-gdcm Scanner")

MEGABYTE = 1e6
NOISY = 0.2
"""With more cores than this at work for others, a picture has to say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a command and its children took.

    Attributes
    ----------
    wall, cpu
        Seconds.
    others
        How many cores were busy with anything else meanwhile: where this is not near 0, the wall time is too long.
    peak
        Resident bytes of the largest of the processes, at its largest.
    from_disk
        Bytes that were not in the page cache.
    output
        What was printed.
    """

    wall: float
    cpu: float
    others: float
    peak: int
    from_disk: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of sorting.

    Attributes
    ----------
    name, does
        What it is, and what it does with the files.
    command
        What is run.
    tree
        Where it puts the files.
    given
        The folder it sorts.
    """

    name: str
    does: str
    command: tuple[str | Path, ...]
    tree: Path
    given: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """A way of sorting, as measured.

    Attributes
    ----------
    files
        How many it was given.
    distinct
        How many different DICOM files came out.
    spent
        For the files it was given.
    """

    way: Way
    files: int
    distinct: int
    spent: Spent

    def scaled(self, files: int) -> float:
        """Return the wall seconds that as many files would take."""
        return self.spent.wall * files / self.files


class CrashError(Exception):
    """The command ended with an error."""


def run(*command: str | Path) -> Spent:
    """Run a command to its end, from an empty write queue."""
    os.sync()
    with tempfile.NamedTemporaryFile() as result:
        launcher = (sys.executable, "-S", HERE / "spend.py", result.name)
        done = subprocess.run(
            (*launcher, *command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=HERE.parent, check=False
        )
        printed = done.stdout.decode(errors="replace")
        if done.returncode:
            raise CrashError(f"{' '.join(map(str, command))} ended with {done.returncode}\n{printed[-2000:]}")
        return Spent(**json.load(result), output=printed)


def program(name: str) -> Path | None:
    """Return where a program of this virtual environment lies, if it is installed."""
    path = Path(sys.executable).with_name(name)
    return path if path.exists() else None


def installed(reader: str) -> bool:
    return reader not in PEER_MODULES or find_spec(PEER_MODULES[reader]) is not None


@contextmanager
def listed(paths: Iterable[str]) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".list") as file:
        file.writelines(f"{path}\n" for path in paths)
        file.flush()
        yield file.name


def read_headers(reader: str, listing: str) -> tuple[dict[str, float], Spent]:
    spent = run(sys.executable, HERE / "readers.py", reader, listing)
    return json.loads(spent.output.splitlines()[-1]), spent


# The files -----------------------------------------------------------------------------------------------------------


def list_files(folder: Path) -> list[str]:
    return [os.path.join(below, name) for below, _, names in os.walk(folder) for name in names]


def is_part_10(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def count_distinct(folder: Path) -> int:
    """Count the different DICOM files of a tree; two links to one file are one."""
    return len({os.stat(path).st_ino for path in list_files(folder) if is_part_10(path)})


def warm(paths: Iterable[str]) -> None:
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def chill(paths: Iterable[str]) -> None:
    """Drop the pages of files from the cache; names and inodes stay, which only root could drop."""
    os.sync()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def build(dump: Path, files: int, *options: str) -> str:
    """Build a dump, and return what was said about it."""
    return run(sys.executable, HERE / "dump.py", dump, "--files", str(files), *options).output


# The measurements ----------------------------------------------------------------------------------------------------


def measure_readers(paths: Sequence[str], *, rounds: int, slow_sample: int) -> dict[str, float]:
    """Return headers a CPU second by reader, best of the rounds; the slow ones get fewer of the same files."""
    names = [name for name in ("scanward", *PEER_MODULES) if installed(name)]
    best = dict.fromkeys(names, 0.0)
    distinct: dict[str, float] = {}
    warm(paths)
    with listed(paths) as everything, listed(paths[:slow_sample]) as few:
        for _ in range(rounds):
            for name in names:
                listing = few if name in SLOW_READERS else everything
                try:
                    result, _ = read_headers(name, listing)
                except CrashError as crash:
                    print(f"{name}: {crash}", file=sys.stderr)
                    continue
                # A reader that skips files would seem fast.
                if result["distinct"] != distinct.setdefault(listing, result["distinct"]):
                    print(f"{name} does not find the images that others find", file=sys.stderr)
                    continue
                best[name] = max(best[name], result["files"] / result["cpu"])
    return best


def measure_cold(paths: Sequence[str], *, rounds: int) -> dict[str, float]:
    """Return the wall seconds of reading headers, and of reading 8 KiB alone, where no page of the files is cached."""
    contenders = ("scanward", RAW)
    best = dict.fromkeys(contenders, float("inf"))
    with listed(paths) as listing:
        for _ in range(rounds):
            for name in contenders:
                chill(paths)
                result, spent = read_headers(name, listing)
                if spent.from_disk < 4096 * len(paths):
                    raise CrashError("the pages of the dump could not be dropped: is it on a disk?")
                best[name] = min(best[name], result["wall"])
    return best


def sort_command(dump: Path, workspace: Path, workers: int) -> tuple[str | Path, ...]:
    luigi = program("luigi")
    if luigi is None:
        sys.exit("luigi is not installed beside this interpreter")
    places = ("--dump", dump, "--workspace", workspace)
    return (luigi, "--module", "pipelines", "SortStudy", *places, "--workers", str(workers))


def list_ways(dump: Path, few: Path, scratch: Path, workers: int) -> list[Way]:
    """List the ways of sorting, in the order in which a round runs them."""
    workspace = scratch / "workspace"
    tree = workspace / "identified" / "sorted"
    command = sort_command(dump, workspace, workers)
    ways = [
        Way(
            name="cp -al",
            does="links only, sorts nothing",
            command=("cp", "-al", dump, scratch / "links"),
            tree=scratch / "links",
            given=dump,
        ),
        Way(
            name="scanward",
            does="index, plan, hard links, journal, every file accounted for",
            command=command,
            tree=tree,
            given=dump,
        ),
        Way(
            name="scanward, unchanged dump",
            does="looks at every file again and finds nothing new",
            command=command,
            tree=tree,
            given=dump,
        ),
    ]
    if dcm2niix := program("dcm2niix"):
        tree = scratch / "dcm2niix"
        renaming = ("-r", "y", "-f", "%i/%t/%s_%d/%o.dcm", "-o", tree)
        ways.append(
            Way(
                name="dcm2niix -r y",
                does="copies, no list of what is left out",
                command=(dcm2niix, *renaming, few),
                tree=tree,
                given=few,
            )
        )
    if organizer := program("dicom-organizer"):
        tree = scratch / "dicom-organizer"
        linking = ("--action", "hardlink", "--if-exists", "rename", "--no-progress", "-o", tree)
        ways.append(
            Way(
                name="dicom-organizer",
                does="hard links, tables of headers, reports",
                command=(organizer, *linking, "-i", few),
                tree=tree,
                given=few,
            )
        )
    return ways


def measure_sorting(dump: Path, scratch: Path, *, sample: int, workers: int, rounds: int) -> list[Sorted]:
    """Sort the dump in every way, each round all of them; the best round of each counts."""
    few = scratch / "sample"
    few.mkdir()
    paths = list_files(dump)
    given = {dump: len(paths), few: min(sample, len(paths))}
    for path in random.Random(1).sample(sorted(paths), given[few]):
        os.link(path, few / os.path.basename(path))
    warm(paths)
    best: dict[str, Sorted] = {}
    for _ in range(rounds):
        ways = list_ways(dump, few, scratch, workers)
        for way in ways:
            if way.name == "dcm2niix -r y":
                way.tree.mkdir()  # the others make theirs
            try:
                spent = run(*way.command)
            except CrashError as crash:
                print(f"{way.name}: {crash}", file=sys.stderr)
                continue
            known = best.get(way.name)
            if known is None or spent.wall < known.spent.wall:
                distinct = known.distinct if known else count_distinct(way.tree)
                best[way.name] = Sorted(way=way, files=given[way.given], distinct=distinct, spent=spent)
        for made in ("links", "workspace", "dcm2niix", "dicom-organizer"):
            shutil.rmtree(scratch / made, ignore_errors=True)
    return list(best.values())


def measure_rows(folder: Path, *, rows: int, workers: int) -> Spent:
    """Sort a dump of very many very small files, for the memory it takes."""
    dump = folder / "rows"
    build(dump, rows, "--folders", "--headers-only")
    workspace = folder / "rows-workspace"
    spent = run(*sort_command(dump, workspace, workers))
    if (sorted_files := count_distinct(workspace / "identified" / "sorted")) != rows:
        raise CrashError(f"{sorted_files:,} of {rows:,} files were sorted")
    return spent


# What is said of them ------------------------------------------------------------------------------------------------


def ratio(value: float, to: float | None) -> str:
    return f"{value / to:.2f}" if to else "-"


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def print_readers(title: str, rates: dict[str, float]) -> None:
    best_c, loop = rates.get("dicomsdl, up to the last value"), rates.get("pydicom")
    print_table(
        title,
        ("reader", "files a CPU second", "times dicomsdl's best", "times pydicom"),
        [
            (name, f"{rate:,.0f}" if rate else "failed", ratio(rate, best_c), ratio(rate, loop))
            for name, rate in rates.items()
        ],
    )


def print_sorting(results: Sequence[Sorted], files: int) -> None:
    bare = next((one.spent.wall for one in results if one.way.name == "cp -al"), None)
    rows = []
    for one in results:
        scaled = "" if one.files == files else f", scaled from {one.files:,}"
        rows.append(
            (
                f"{one.way.name} ({one.way.does}{scaled})",
                f"{one.scaled(files):.1f}",
                f"{one.spent.cpu * files / one.files:.1f}",
                ratio(one.scaled(files), bare),
                f"{one.spent.others:.1f}",
                f"{one.spent.peak / MEGABYTE:.0f}",
                f"{one.distinct:,} of {one.files:,}",
            )
        )
    columns = ("what", "wall s", "CPU s", "times cp -al", "cores taken by others", "peak MB", "files out")
    print_table(f"Sorting {files:,} files of one flat folder", columns, rows)


def draw(path: Path, results: Sequence[Sorted], rates: dict[str, float], files: int) -> None:
    from chart import Bar, Panel, draw_chart  # noqa: PLC0415 - Pillow is not needed without a chart

    panels = []
    if results:
        bars = []
        for one in sorted(results, key=lambda one: one.scaled(files)):
            label = f"{one.way.name} (sorts nothing)" if one.way.name == "cp -al" else one.way.name
            text = seconds(one.scaled(files)) + ("" if one.files == files else f"  ({one.files:,} files, scaled)")
            bars.append(Bar(label=label, value=one.scaled(files), text=text, ours=one.way.name.startswith("scanward")))
        note = f"Wall seconds, {os.cpu_count()} cores, warm cache. Shorter is better."
        others = max(one.spent.others for one in results)
        if others >= NOISY:
            note += f" Other programs took up to {others:.1f} cores meanwhile."
        panels.append(Panel(title=f"Sorting {files:,} DICOM files into a tree", note=note, bars=bars))
    if rates:
        bars = [
            Bar(label=name, value=rate, text=f"{rate:,.0f}", ours=name == "scanward")
            for name, rate in sorted(rates.items(), key=lambda item: -item[1])
        ]
        note = "Files a second, one core, warm cache, files in random order. Longer is better."
        panels.append(Panel(title="Reading what sorting needs from the headers", note=note, bars=bars))
    draw_chart(panels, path)


def resolved(text: str) -> Path:
    """Return the whole path, since contenders run in another folder."""
    return Path(text).resolve()


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure indexing and sorting.")
    parser.add_argument("--files", type=int, default=100_000, help="size of the dump (default 100,000)")
    parser.add_argument("--dump", type=resolved, help="a folder for the dump: kept, and taken as it is if it is there")
    parser.add_argument("--folder", type=resolved, help="where to write all the rest (default: beside the dump)")
    parser.add_argument("--sample", type=int, default=2000, help="files for slow peers (default 2,000)")
    parser.add_argument("--header-sample", type=int, default=20_000, help="files for fast readers (default 20,000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed; the best counts (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="workers of luigi (default 2)")
    parser.add_argument("--parts", nargs="+", choices=("headers", "sort", "cold"), default=("headers", "sort", "cold"))
    parser.add_argument(
        "--rows", type=int, help="also sort as many very small files, for the memory (4 kB each on disk)"
    )
    parser.add_argument("--chart", type=resolved, help="write a picture of the results to this PNG file")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    data = data_folder()
    beside = options.folder or (options.dump.parent if options.dump else None)
    targets: list[tuple[str, str, str, bool]] = []

    def check(measure: str, must: str, value: str, *, reached: bool) -> None:
        targets.append((measure, must, value, reached))

    with tempfile.TemporaryDirectory(prefix="scanward-bench-", dir=beside) as scratch_name:
        scratch = Path(scratch_name)
        dump = options.dump or scratch / "dump"
        if not dump.exists():
            print(build(dump, options.files))
        paths = list_files(dump)
        files = len(paths)
        shuffled = random.Random(1).sample(sorted(paths), files)
        rates: dict[str, float] = {}
        results: list[Sorted] = []

        if "headers" in options.parts:
            real_files = sorted(path for name in REAL_SETS for path in list_files(data / name) if is_part_10(path))
            real = measure_readers(real_files, rounds=options.rounds, slow_sample=len(real_files))
            print_readers(f"Reading the headers of {len(real_files):,} real files, folder by folder, one process", real)
            some = shuffled[: options.header_sample]
            rates = measure_readers(some, rounds=options.rounds, slow_sample=options.sample)
            print_readers(f"Reading {len(some):,} headers of the built dump, in random order, one process", rates)
            for title, found in (("real files", real), ("built dump", rates)):
                for peer, least in (("dicomsdl, up to the last value", 1.2), ("pydicom", 15)):
                    if found.get(peer):
                        times = found["scanward"] / found[peer]
                        measure = f"headers of {title}, one core, beside {peer.partition(',')[0]}"
                        check(measure, f"at least {least}x", f"{times:.1f}x", reached=times >= least)

        if "sort" in options.parts:
            results = measure_sorting(
                dump, scratch, sample=options.sample, workers=options.workers, rounds=options.rounds
            )
            print_sorting(results, files)
            by_name = {one.way.name: one for one in results}
            first, again = by_name.get("scanward"), by_name.get("scanward, unchanged dump")
            if first and again:
                wall, times = first.spent.wall, first.spent.wall / by_name["cp -al"].spent.wall
                check(f"sorting {files:,} files", "at most 12 s", f"{wall:.1f} s", reached=wall <= 12)
                check("sorting beside cp -al", "under 6x", f"{times:.1f}x", reached=times < 6)
                wall, cpu = again.spent.wall, again.spent.cpu
                value = f"{wall:.2f} s ({cpu:.2f} s CPU)"
                check(f"unchanged dump of {files:,} files", "at most 1.5 s", value, reached=wall <= 1.5)

        if "cold" in options.parts:
            cold = measure_cold(shuffled[: options.header_sample], rounds=options.rounds)
            times = cold["scanward"] / cold[RAW]
            check("headers on cold pages, beside reads of 8 KiB", "within 1.5x", f"{times:.2f}x", reached=times <= 1.5)

        if options.rows:
            spent = measure_rows(scratch, rows=options.rows, workers=options.workers)
            value = f"{spent.peak / MEGABYTE:.0f} MB ({spent.wall:.0f} s, {spent.cpu:.0f} s CPU)"
            check(f"memory, {options.rows:,} rows", "under 300 MB", value, reached=spent.peak < 300 * MEGABYTE)

    print_table(
        "What must be reached",
        ("measure", "must reach", "measured", "reached"),
        [(measure, must, value, "yes" if reached else "no") for measure, must, value, reached in targets],
    )
    if options.chart:
        draw(options.chart, results, rates, files)


if __name__ == "__main__":
    main()
