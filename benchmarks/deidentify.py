"""What de-identification leaks, loses and costs, beside its peers on the same files in one run.

Measured are planted identifiers that survive, what dcm2niix still tells of the acquisition, whether two runs give the
same bytes, and files a CPU second on one core. Every tool runs in a process of its own (`peers.py`): a crash is told
and harms no other.

Run: .venv/bin/python benchmarks/deidentify.py (after `make bench`, which installs the peers; one that is missing is
left out)
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dump import data_folder
from leaks import SERIES, Conversion, Kept, Leaks, find_kept, find_leaks, read_conversion, write_canaries
from measure import ge_files, print_table
from mosaics import build_runs
from peers import AUDITED, OURS, REWRITE, RUST, SECRET, installed_tools, run_tool

HERE = Path(__file__).resolve().parent
WARM_UP = 8
SECONDS = 2.0
"""How long a tool is timed in each round, as far as there are files enough."""

FEWEST = 12
MEMORY = Path("/dev/shm")
"""Where files take no disk: what writing them costs is the same for every tool, and not what is measured."""

WORKERS = (1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one tool is.

    Attributes
    ----------
    files
        In each round.
    rates
        Files a CPU second, by round.
    """

    files: int
    rates: tuple[float, ...]

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def times(self, other: Speed) -> float:
        """Return how many times as fast this is, by rounds, whose machine is the same for both."""
        return statistics.median(one / two for one, two in zip(self.rates, other.rates, strict=True))


def is_ours(tool: str) -> bool:
    return tool.startswith(OURS)


# The measurements ----------------------------------------------------------------------------------------------------


def measure_speed(tools: Sequence[str], files: Sequence[Path], folder: Path, *, rounds: int) -> dict[str, Speed]:
    """Time every tool in every round; peers that are slow get fewer of the files, spread over all."""
    warm_up = list(files[-WARM_UP:])
    # Ours gets whole series, as in a study: what it remembers of one pays over the whole of it.
    shares = {tool: list(files[:-WARM_UP]) for tool in tools if is_ours(tool)}
    rates: dict[str, list[float]] = {tool: [] for tool in tools}
    for number in range(rounds + 1):
        for tool in tools:
            # The first round only tells how many files a tool gets in the others.
            given = shares.get(tool) or spread(files[:-WARM_UP], FEWEST)
            export = folder / "export"
            outcome = run_tool(tool, [*given, *warm_up], export, warm_up=WARM_UP)
            shutil.rmtree(export)
            if outcome.exported < outcome.files:
                print(f"{tool} exported {outcome.exported} of {outcome.files} files", file=sys.stderr)
            rate = outcome.exported / outcome.cpu
            if number:
                rates[tool].append(rate)
            elif tool not in shares:
                shares[tool] = spread(files[:-WARM_UP], max(FEWEST, math.ceil(SECONDS * rate)))
    return {tool: Speed(files=len(shares[tool]), rates=tuple(rates[tool])) for tool in tools if all(rates[tool])}


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """Choose so many of the files, evenly and in their order."""
    step = max(1.0, len(files) / count)
    return [files[int(number * step)] for number in range(min(count, len(files)))]


def same_bytes(tool: str, files: Sequence[Path], folder: Path) -> int:
    """Count the files of which two processes make the same export."""
    one, other = (run_tool(tool, files, folder / name).targets for name in ("once", "again"))
    pairs = zip(one, other, strict=True)
    return sum(a.exists() and b.exists() and a.read_bytes() == b.read_bytes() for a, b in pairs)


def export_digests(dump: Path, folder: Path, workers: Iterable[int]) -> dict[int, str]:
    """Run the whole of DeidentifyStudy from nothing with so many workers, and name the export's files and bytes."""
    luigi = Path(sys.executable).with_name("luigi")
    digests = {}
    for count in workers:
        workspace = folder / f"workspace-{count}"
        secret = workspace / "identified" / "secret"
        secret.parent.mkdir(parents=True, mode=0o700)
        secret.touch(mode=0o600)
        secret.write_bytes(SECRET)
        study = folder / f"study-{count}.toml"
        # Small portions, or there would be no work for a second worker.
        study.write_text(f'dump = "{dump}"\nworkspace = "{workspace}"\n[chunks]\nexport_instances = 20\n')
        command = (luigi, "--module", "pipelines", "DeidentifyStudy", "--study", study, "--workers", str(count))
        subprocess.run(command, cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        hasher = hashlib.sha256()
        images = sorted((workspace / "released" / "export").rglob("*.dcm"))
        if not images:
            sys.exit("DeidentifyStudy exported nothing")
        for path in images:
            hasher.update(str(path.relative_to(workspace)).encode() + path.read_bytes())
        digests[count] = hasher.hexdigest()
    return digests


def find_converter() -> str:
    """Find dcm2niix beside the interpreter, or on the path."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("dcm2niix", path=beside) or shutil.which("dcm2niix") or sys.exit("dcm2niix is not installed")


# What is said of them ------------------------------------------------------------------------------------------------


def fastest_peer(speeds: Mapping[str, Speed]) -> str:
    """Name the fastest peer that is written in Python."""
    return max((tool for tool in speeds if not is_ours(tool) and tool != RUST), key=lambda tool: speeds[tool].rate)


def print_speeds(title: str, speeds: Mapping[str, Speed]) -> None:
    peer = speeds[fastest_peer(speeds)]
    print_table(
        title,
        ("tool", "files a CPU second", "times the fastest Python peer", "files a round"),
        [
            (tool, f"{speed.rate:,.0f}", f"{speed.times(peer):.1f}", f"{speed.files:,}")
            for tool, speed in speeds.items()
        ],
    )


def draw(
    path: Path,
    leaks: Mapping[str, Leaks],
    kept: Mapping[str, Kept],
    facts: int,
    speeds: Mapping[str, Mapping[str, Speed]],
) -> None:
    from chart import Bar, Panel, draw_chart  # noqa: PLC0415 - Pillow is not needed without a chart

    panels = []
    if leaks:
        bars = [
            Bar(
                label=tool,
                value=one.surviving / one.places,
                text=f"{one.surviving} of {one.places}"
                + (f";  {kept[tool].facts} of {facts} facts kept" if tool in kept else ""),
                ours=is_ours(tool),
            )
            for tool, one in sorted(leaks.items(), key=lambda item: item[1].surviving / item[1].places)
        ]
        note = "Places of which a planted identifier comes out, and what stays of the acquisition. Shorter is better."
        panels.append(Panel(title="What leaks, and what is lost", note=note, bars=bars))
    for title, found in speeds.items():
        bars = [
            Bar(label=tool, value=speed.rate, text=f"{speed.rate:,.0f}", ours=is_ours(tool))
            for tool, speed in sorted(found.items(), key=lambda item: -item[1].rate)
        ]
        note = "Files a second, one core, warm cache. Longer is better."
        panels.append(Panel(title=f"De-identifying {title}", note=note, bars=bars))
    draw_chart(panels, path)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure de-identification.")
    parts = ("leaks", "same", "speed")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--only", metavar="TOOL", nargs="+", help="measure only these tools")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default 5)")
    parser.add_argument("--files", type=int, default=1000, help="how many files of each kind at most (default 1,000)")
    memory = MEMORY if MEMORY.is_dir() else None
    parser.add_argument("--folder", type=Path, default=memory, help="where to write everything (default: in memory)")
    parser.add_argument("--chart", type=Path, help="write a picture of the results to this PNG file")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    data = data_folder()
    tools = [tool for tool in installed_tools() if not options.only or tool in options.only]
    whole = [tool for tool in tools if tool not in (REWRITE, AUDITED)]
    leaks: dict[str, Leaks] = {}
    kept: dict[str, Kept] = {}
    facts = 0
    speeds: dict[str, dict[str, Speed]] = {}
    targets: list[tuple[str, str, str, bool]] = []

    def check(measure: str, must: str, value: str, *, reached: bool) -> None:
        targets.append((measure, must, value, reached))

    with tempfile.TemporaryDirectory(prefix="scanward-bench-", dir=options.folder) as scratch_name:
        scratch = Path(scratch_name)
        mosaics = build_runs(data, scratch / "mosaics", files=options.files)

        if "leaks" in options.parts:
            program = find_converter()
            canaries = write_canaries(data, scratch / "canaries")
            before: dict[str, Conversion] = {
                series: read_conversion(program, data / series, scratch / f"before-{number}")
                for number, series in enumerate(SERIES)
            }
            facts = sum(len(one.facts) for one in before.values())
            for number, tool in enumerate(whole):
                leaks[tool] = find_leaks(tool, canaries, scratch / f"leaks-{number}")
                folder = scratch / f"kept-{number}"
                kept[tool] = find_kept(tool, data, before, program, folder)
                shutil.rmtree(folder, ignore_errors=True)
            print_table(
                "What leaks, and what is lost",
                ("tool", "places that leak", "files left out", "facts kept", "sidecar keys kept", "of them telling"),
                [
                    (
                        tool,
                        f"{one.surviving} of {one.places}",
                        f"{one.left_out} of {one.files}",
                        f"{kept[tool].facts} of {facts}",
                        f"{kept[tool].keys} of {kept[tool].all_keys}",
                        f"{kept[tool].telling}",
                    )
                    for tool, one in leaks.items()
                ],
            )
            if OURS in leaks:
                ours, held = leaks[OURS], kept[OURS]
                value = f"{ours.surviving} of {ours.places}"
                check("planted identifiers that survive", "0 of at least 150 places", value, reached=not ours.surviving)
                check("facts of the acquisition kept", "all", f"{held.facts} of {facts}", reached=held.facts == facts)
                value = f"{held.keys} of {held.all_keys}, {held.telling} telling, {held.lost} others lost"
                is_reached = not held.telling and not held.lost
                check("sidecar keys kept", "all but those of identity, none telling", value, reached=is_reached)

        if "same" in options.parts:
            some = [*spread(ge_files(options.files), 20), *spread(mosaics, 10)]
            rows = []
            for number, tool in enumerate(whole):
                same = same_bytes(tool, some, scratch / f"same-{number}")
                rows.append((tool, f"{same} of {len(some)}"))
                if is_ours(tool):
                    dump = scratch / "dump"
                    dump.mkdir()
                    for place, path in enumerate(some):
                        shutil.copyfile(path, dump / f"{place:04d}")
                    digests = export_digests(dump, scratch, WORKERS)
                    is_reached = same == len(some) and len(set(digests.values())) == 1
                    value = f"{same} of {len(some)} in two runs; {', '.join(map(str, digests))} workers: " + (
                        "the same" if len(set(digests.values())) == 1 else "not the same"
                    )
                    check("same bytes on every run, any worker count", "yes", value, reached=is_reached)
            print_table("The same bytes in two runs", ("tool", "files that are the same"), rows)

        if "speed" in options.parts:
            kinds = {"GE files of 25 kB": ge_files(options.files), "Siemens mosaics of 385 kB": mosaics}
            for title, files in kinds.items():
                found = measure_speed(tools, files, scratch, rounds=options.rounds)
                speeds[title] = found
                print_speeds(f"De-identifying {title}, one process", found)
                peer = found[fastest_peer(found)]
                least = {REWRITE: 10 if title.startswith("GE") else 5, AUDITED: 4 if title.startswith("GE") else 5}
                for tool, must in least.items():
                    if tool in found:
                        times = found[tool].times(peer)
                        measure = f"{title}, {tool.partition(', ')[2]}, beside {fastest_peer(found)}"
                        check(measure, f"at least {must}x", f"{times:.1f}x", reached=times >= must)

    print_table(
        "What must be reached",
        ("measure", "must reach", "measured", "reached"),
        [(measure, must, value, "yes" if reached else "no") for measure, must, value, reached in targets],
    )
    if options.chart:
        draw(options.chart, leaks, kept, facts, speeds)


if __name__ == "__main__":
    main()
