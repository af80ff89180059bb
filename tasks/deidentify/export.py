"""De-identify a list of files: rewrite each, audit what was written, and only then move it into the export."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tasks.deidentify.audit.compare import Expectation, audit_file
from tasks.deidentify.audit.conversion import Converter, Sought, Verdict
from tasks.deidentify.audit.pixels import Region
from tasks.deidentify.cohort import read_facts
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.ledger import ExportRow
from tasks.deidentify.ocr import READ_BY, OcrMode, TextReader, look_for_text
from tasks.deidentify.plan import ExportOrder, Person
from tasks.deidentify.profile import Profile
from tasks.deidentify.rewrite import RefusalError, rewrite
from tasks.errors import DamagedRecordError
from tasks.files import fsync_folder, make_folder, refusals_named, temporary_sibling, write_atomically

VANISHED = "vanished"
AUDIT_PREFIX = "audit-"
"""What the reason codes of files that the audit refused begin with; its findings follow."""

_CHANGES_OF_IMAGES = frozenset({"pixel_areas", "pixel_unused_bits"})
"""What `Rewritten.tally` counts where areas were blacked out, or bits beside the stored values cleaned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What came of one order, before it is put anywhere: nothing at all where it was refused."""

    order: ExportOrder
    content: bytes | None = None
    reason: str = ""
    by_pydicom: str = ""
    same_image: bool = True
    conversion: str = ""
    codes: tuple[str, ...] = ()
    tally: str = ""


def export_files(
    orders: Sequence[ExportOrder],
    people: dict[str, Person],
    *,
    sorted_tree: Path,
    export: Path,
    quarantine: Path,
    profile: Profile,
    identity: Identity,
    advance: Callable[[int], None],
    converter: Converter | None = None,
    reader: TextReader | None = None,
    ocr: OcrMode = "off",
) -> list[ExportRow]:
    """Carry out export orders.

    A file stands in the export only after its audit passed; one that fails is kept in quarantine, inside `identified/`.
    The same orders give the same bytes, so doing them again after a crash changes nothing.

    Parameters
    ----------
    orders, people
        As `plan_export` makes them; a series stands together.
    sorted_tree, export, quarantine
        Where sources lie, and where results go.
    profile, identity
        How.
    advance
        Called with the number of files done since the last call.
    converter
        Converts each series before and after, as the last part of the audit; without it that part is left out.
    reader, ocr
        What looks for text in exported images, and in which; without a reader nothing does.

    Returns
    -------
    list of ExportRow
        One for each order, in their order.
    """
    expectations = expectations_of(people, profile)
    rows: list[ExportRow] = []
    folders: set[Path] = set()

    def make(order: ExportOrder) -> _Made:
        made = _make(order, expectations[order.pseudonym], sorted_tree, profile, identity)
        if reader is not None and made.content is not None and not made.reason:
            look = look_for_text(made.content, reader, ocr, codes=made.codes)
            told = {f"{READ_BY}{reader.name}": 1} if look.was_read else {}
            made = replace(made, reason=look.reason, tally=_write_tally({**json.loads(made.tally), **told}))
        advance(1)
        return made

    for _, series in itertools.groupby(orders, key=lambda order: order.target.rpartition("/")[0]):
        made: Generator[_Made, None, None] = (make(order) for order in series)
        if converter is not None:
            made = _compared(made, expectations, sorted_tree, converter)
        with contextlib.closing(made):
            rows += [_settle(one, export, quarantine, folders) for one in made]
    for folder in sorted(folders):
        fsync_folder(folder)
    return rows


def expectations_of(people: Mapping[str, Person], profile: Profile) -> dict[str, Expectation]:
    """Return what the audit expects of each subject's files, by pseudonym."""
    codes = tuple(code for code, _ in profile.codes())
    # What the audit holds to be black it works out by itself, from the study's words.
    regions = tuple(Region(*(getattr(rule, name) for name in Region._fields)) for rule in profile.regions)
    return {
        name: Expectation(
            pseudonym=name,
            shift_days=person.shift_days,
            identifiers=frozenset(person.identifiers),
            uids=frozenset(person.uids),
            dates=frozenset(person.dates),
            codes=codes,
            regions=regions,
        )
        for name, person in people.items()
    }


def _make(order: ExportOrder, expected: Expectation, sorted_tree: Path, profile: Profile, identity: Identity) -> _Made:
    try:
        original = (sorted_tree / order.source).read_bytes()
    except FileNotFoundError:
        return _Made(order=order, reason=VANISHED)
    subject = Subject(pseudonym=order.pseudonym, shift_days=expected.shift_days)
    try:
        result = rewrite(original, profile=profile, identity=identity, subject=subject, known=expected.identifiers)
    except RefusalError as refusal:
        return _Made(order=order, reason=refusal.reason)
    findings = audit_file(original, result.content, expected)
    return _Made(
        order=order,
        content=result.content,
        reason=AUDIT_PREFIX + "+".join(findings) if findings else "",
        by_pydicom=result.by_pydicom,
        same_image=_CHANGES_OF_IMAGES.isdisjoint(result.tally),
        codes=result.codes,
        tally=_write_tally(result.tally),
    )


def _write_tally(tally: Mapping[str, int]) -> str:
    return json.dumps(dict(tally), sort_keys=True, separators=(",", ":"))


def _compared(
    made: Iterable[_Made], expectations: dict[str, Expectation], sorted_tree: Path, converter: Converter
) -> Generator[_Made, None, None]:
    """Hold the files of a series back until it was converted before and after; if that differs, refuse them all.

    Until then they lie in the converter's folder: the export never holds what was not audited to the end. A file whose
    image was changed on purpose is not compared.
    """
    with converter.comparison() as comparison:
        held: list[tuple[_Made, Path | None]] = []
        for one in made:
            kept = None
            if one.content is not None:
                is_compared = one.same_image and not one.reason
                kept = comparison.keep(one.content, source=sorted_tree / one.order.source if is_compared else None)
            held.append((replace(one, content=None), kept))
        expected = expectations[held[0][0].order.pseudonym]
        compared = comparison.run(
            Sought(pseudonym=expected.pseudonym, identifiers=expected.identifiers, codes=frozenset(expected.codes))
        )
        for one, kept in held:
            whole = replace(one, content=kept.read_bytes() if kept is not None else None)
            if one.same_image and kept is not None and not one.reason:
                reason = AUDIT_PREFIX + "+".join(compared.findings) if compared.findings else ""
                whole = replace(whole, reason=reason, conversion=str(compared))
            yield whole


def _settle(made: _Made, export: Path, quarantine: Path, folders: set[Path]) -> ExportRow:
    """Put a file where it belongs, and take away what an earlier run left of it where it no longer does."""
    order, content = made.order, made.content
    target, refused = export / order.target, quarantine / order.target
    digest = tally = cohort = ""
    if content is not None and not made.reason:
        _put(content, target, folders)
        digest = hashlib.sha256(content).hexdigest()
        tally, cohort = made.tally, read_facts(content)
        with contextlib.suppress(FileNotFoundError):
            refused.unlink()
    else:
        with contextlib.suppress(FileNotFoundError):
            # An earlier run may have exported this very name under other settings.
            target.unlink()
        if content is not None:
            _put(content, refused, folders, private=True)
    return ExportRow(
        source=order.source,
        identity=order.identity,
        target=order.target,
        reason=made.reason,
        digest=digest,
        by_pydicom=made.by_pydicom,
        conversion=made.conversion or ("" if made.reason else Verdict.NOT_RUN),
        tally=tally,
        cohort=cohort,
    )


def _put(content: bytes, target: Path, folders: set[Path], *, private: bool = False) -> None:
    """Write beside, fsync, rename; the folder is made durable once, at the end."""
    with refusals_named(target.parent):
        if target.parent not in folders:
            make_folder(target.parent, mode=0o700 if private else 0o755)
            folders.add(target.parent)
        beside = temporary_sibling(target)
        try:
            with open(beside, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(beside, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
            raise


def write_rows(path: Path, rows: Sequence[ExportRow]) -> None:
    """Keep one chunk's outcomes until they are merged."""
    write_atomically(path, json.dumps([asdict(row) for row in rows]).encode("ascii"), mode=0o600)


def read_rows(path: Path) -> list[ExportRow]:
    """Read what `write_rows` wrote."""
    try:
        return [ExportRow(**row) for row in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError) as fault:
        raise DamagedRecordError(path=path, problem="it is not there or was cut") from fault
