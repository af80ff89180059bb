"""The table of keys: everything a reader can do without a mouse, in the words that help, README and window share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.errors import UsageError
from tasks.review.reading import Grade, ReadingProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One thing a key does.

    Attributes
    ----------
    name
        What the window calls it.
    keys
        Keys that do it, as Qt writes them: "Up", "Shift+Up", "PgUp", "Ctrl+Z".
    group
        Under which heading the help shows it.
    text
        What it does, for the reader.
    repeats
        True if holding the key down does it again and again.
    """

    name: str
    keys: tuple[str, ...]
    group: str
    text: str
    repeats: bool = False


_MOVE, _SHOW, _CUT, _CONTRAST, _TIME, _LOOP = "Move", "Show", "Cut", "Contrast", "Time", "Read"

COMMANDS = (
    Command(
        name="slice-up",
        keys=("Up",),
        group=_MOVE,
        text="one slice towards head, front or the patient's right",
        repeats=True,
    ),
    Command(name="slice-down", keys=("Down",), group=_MOVE, text="one slice the other way", repeats=True),
    Command(
        name="slice-up-fast", keys=("Shift+Up", "PgUp"), group=_MOVE, text="ten slices at once, that way", repeats=True
    ),
    Command(
        name="slice-down-fast",
        keys=("Shift+Down", "PgDown"),
        group=_MOVE,
        text="ten slices at once, the other way",
        repeats=True,
    ),
    Command(name="centre", keys=("Home",), group=_MOVE, text="crosshair to the middle of the image"),
    Command(name="plane-next", keys=("Tab",), group=_MOVE, text="the arrow keys move the next plane"),
    Command(name="zoom-in", keys=("+", "="), group=_MOVE, text="zoom in", repeats=True),
    Command(name="zoom-out", keys=("-",), group=_MOVE, text="zoom out", repeats=True),
    Command(name="fit", keys=("0",), group=_MOVE, text="fit the whole image, no zoom, no pan"),
    Command(name="pan-left", keys=("Alt+Left",), group=_MOVE, text="shift the view left", repeats=True),
    Command(name="pan-right", keys=("Alt+Right",), group=_MOVE, text="shift the view right", repeats=True),
    Command(name="pan-up", keys=("Alt+Up",), group=_MOVE, text="shift the view up", repeats=True),
    Command(name="pan-down", keys=("Alt+Down",), group=_MOVE, text="shift the view down", repeats=True),
    Command(name="layout-ortho", keys=("O",), group=_SHOW, text="three planes and the cut at any angle"),
    Command(name="layout-single", keys=("S",), group=_SHOW, text="one plane, large"),
    Command(name="layout-oblique", keys=("Q",), group=_SHOW, text="the cut at any angle, large"),
    Command(name="layout-lightbox", keys=("L",), group=_SHOW, text="lightbox: many slices of one plane"),
    Command(
        name="layout-times", keys=("Y",), group=_SHOW, text="time points of the subject side by side, or all images"
    ),
    Command(name="image-next", keys=("I",), group=_SHOW, text="the next image of the case: another echo or stack"),
    Command(name="convention", keys=("X",), group=_SHOW, text="patient's left on the right (radiological) or left"),
    Command(name="nose", keys=("Shift+X",), group=_SHOW, text="nose to the left or right in sagittal planes"),
    Command(name="smooth", keys=("Shift+S",), group=_SHOW, text="smooth, or each voxel as it is"),
    Command(name="crosshair", keys=("Shift+C",), group=_SHOW, text="crosshair on or off"),
    Command(name="overlay", keys=("V",), group=_SHOW, text="overlay on or off"),
    Command(name="overlay-flicker", keys=("F",), group=_SHOW, text="overlay flickers"),
    Command(name="overlay-less", keys=("Shift+V",), group=_SHOW, text="overlay fainter, then strong again"),
    Command(name="rotate-left", keys=("[",), group=_CUT, text="turn the cut to the left by 2 degrees", repeats=True),
    Command(name="rotate-right", keys=("]",), group=_CUT, text="turn the cut to the right by 2 degrees", repeats=True),
    Command(name="tilt-up", keys=("{",), group=_CUT, text="tilt the cut backwards", repeats=True),
    Command(name="tilt-down", keys=("}",), group=_CUT, text="tilt the cut forwards", repeats=True),
    Command(name="spin-left", keys=("Ctrl+[",), group=_CUT, text="turn the picture of the cut in its plane"),
    Command(name="spin-right", keys=("Ctrl+]",), group=_CUT, text="the same, the other way"),
    Command(name="cut-reset", keys=("R",), group=_CUT, text="the cut is the plane that the arrow keys move"),
    Command(name="slab-thicker", keys=("'",), group=_CUT, text="a slab 2 mm thicker", repeats=True),
    Command(name="slab-thinner", keys=(";",), group=_CUT, text="a slab 2 mm thinner", repeats=True),
    Command(name="slab-mode", keys=("Shift+Q",), group=_CUT, text="slab shows mean, maximum or minimum"),
    Command(name="window-reset", keys=("W",), group=_CONTRAST, text="contrast that suits this image"),
    Command(name="window-next", keys=("Shift+W",), group=_CONTRAST, text="the next preset of contrast"),
    Command(name="window-background", keys=("G",), group=_CONTRAST, text="background: ghosts and noise made bright"),
    Command(name="window-wider", keys=("Ctrl+Up",), group=_CONTRAST, text="less contrast", repeats=True),
    Command(name="window-narrower", keys=("Ctrl+Down",), group=_CONTRAST, text="more contrast", repeats=True),
    Command(name="window-brighter", keys=("Ctrl+Right",), group=_CONTRAST, text="brighter", repeats=True),
    Command(name="window-darker", keys=("Ctrl+Left",), group=_CONTRAST, text="darker", repeats=True),
    Command(name="colours", keys=("Shift+G",), group=_CONTRAST, text="grey, hot or blue to yellow"),
    Command(name="volume-next", keys=("Right",), group=_TIME, text="the next volume", repeats=True),
    Command(name="volume-previous", keys=("Left",), group=_TIME, text="the volume before", repeats=True),
    Command(name="volume-next-fast", keys=("Shift+Right",), group=_TIME, text="ten volumes on", repeats=True),
    Command(name="volume-previous-fast", keys=("Shift+Left",), group=_TIME, text="ten volumes back", repeats=True),
    Command(name="derived", keys=("D",), group=_TIME, text="a volume, the mean, or the standard deviation over time"),
    Command(name="cine", keys=("K",), group=_TIME, text="run through the volumes, or the slices, and stop"),
    Command(name="case-next", keys=("N",), group=_LOOP, text="the next case, without a verdict"),
    Command(name="case-previous", keys=("B",), group=_LOOP, text="the case before"),
    Command(name="case-skip", keys=("Shift+N",), group=_LOOP, text="put the case off"),
    Command(name="case-list", keys=("J",), group=_LOOP, text="list of cases: type to find, Return goes there"),
    Command(name="undo", keys=("U", "Ctrl+Z"), group=_LOOP, text="take the last act back"),
    Command(name="note", keys=("T",), group=_LOOP, text="write a note; Return or Esc comes back to the image"),
    Command(name="mark", keys=("M",), group=_LOOP, text="mark the voxel under the crosshair, with a note"),
    Command(name="mark-remove", keys=("Shift+M",), group=_LOOP, text="take the nearest mark away"),
    Command(name="quality", keys=("E",), group=_LOOP, text="metrics and flags, once the verdict is given"),
    Command(name="screenshot", keys=("P",), group=_LOOP, text="picture of the window, without names, to a file"),
    Command(name="help", keys=("H", "F1"), group=_LOOP, text="this table"),
    Command(name="quit", keys=("Ctrl+Q",), group=_LOOP, text="close; everything is saved already"),
)
"""Everything a key can do, in the order of the help."""


def key_table(protocol: ReadingProtocol | None = None) -> dict[str, Command]:
    """Map each key to what it does, the study's verdicts and artefacts included.

    Raises
    ------
    UsageError
        If the study gives a key twice, or one that the viewer needs.
    """
    table = {key: command for command in COMMANDS for key in command.keys}
    for command in reading_commands(protocol):
        for key in command.keys:
            if key in table:
                raise UsageError(
                    problem=f"The study gives the key {key} to {command.text.split(':')[0]}, but it is taken: "
                    f"{table[key].text}.",
                    remedy="Choose another key in the study file; `python -m viewer keys` lists those that are taken.",
                )
            table[key] = command
    return table


def reading_commands(protocol: ReadingProtocol | None) -> tuple[Command, ...]:
    """List the keys of a study's verdicts and artefacts."""
    if protocol is None:
        return ()
    rate = (_graded("rate", "verdict", grade) for grade in protocol.scale)
    tick = (_graded("tick", "artefact", grade) for grade in protocol.artefacts)
    return (*rate, *tick)


def _graded(kind: str, group: str, grade: Grade) -> Command:
    text = f"{grade.name}: {grade.meaning}" if grade.meaning else grade.name
    return Command(name=f"{kind}:{grade.name}", keys=(grade.key,), group=group.capitalize(), text=text)


def grouped(commands: Iterable[Command]) -> dict[str, list[Command]]:
    """Put commands under their headings, in order."""
    groups: dict[str, list[Command]] = {}
    for command in commands:
        groups.setdefault(command.group, []).append(command)
    return groups


def markdown(commands: Iterable[Command] = COMMANDS) -> str:
    """Write the table as the README shows it."""
    lines = ["| | key | does |", "| --- | --- | --- |"]
    for group, members in grouped(commands).items():
        for place, command in enumerate(members):
            keys = " or ".join(f"`{key}`" for key in command.keys)
            lines.append(f"| {group if place == 0 else ''} | {keys} | {command.text} |")
    return "\n".join(lines) + "\n"
