"""Put together what was prepared series by series: names, the data set's content, what stands out, the page's cases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tasks.review.advice import ImageAdvice
from tasks.review.bids import OTHER, BidsName, NamingRule, name_images
from tasks.review.bids_dataset import DatasetImage
from tasks.review.flag import Flag, Measured, flag_outliers
from tasks.review.manifest import COURSES, NIFTI, Entry, ImageRecord
from tasks.review.page import PageCase, page_case
from tasks.review.quality.metric import METRICS, Metric
from tasks.review.staging import BVAL, BVEC, IMAGE, Staged

_NOT_IN_A_GROUP = frozenset({"sub", "ses", "run"})
_CONVERSION_CODES = frozenset({"conversion-warning", "not-converted", "half-converted"})


def name_study(
    entries: Iterable[Entry], staged: Mapping[str, Staged], rules: Sequence[NamingRule]
) -> dict[str, BidsName]:
    """Name every image of the study; keys are entry id, slash, stem."""
    facts = [
        image.facts(entry.entry_id, entry.subject, entry.visit, entry.series)
        for entry in entries
        for image in staged[entry.entry_id].images
    ]
    return name_images(facts, rules)


def dataset_images(
    entries: Iterable[Entry], staged: Mapping[str, Staged], names: Mapping[str, BidsName], converted: Path
) -> list[DatasetImage]:
    """List what the data set is to hold; `converted` is the folder in which the series' folders lie."""
    images = []
    for entry in entries:
        for image in staged[entry.entry_id].images:
            stem = converted / entry.entry_id / image.stem
            images.append(
                DatasetImage(
                    name=names[f"{entry.entry_id}/{image.stem}"],
                    pseudonym=entry.subject,
                    image=stem.with_name(stem.name + IMAGE),
                    sidecar=image.sidecar,
                    bval=stem.with_name(stem.name + BVAL) if image.has_directions else None,
                    bvec=stem.with_name(stem.name + BVEC) if image.has_directions else None,
                    age=image.age,
                    sex=image.sex,
                )
            )
    return images


def complete(entry: Entry, staged: Staged, names: Mapping[str, BidsName]) -> Entry:
    """Add to an entry what its series was converted to, and under which names it lies in the data set."""
    images = []
    for image in staged.images:
        name = names[f"{entry.entry_id}/{image.stem}"]
        path = f"{NIFTI}/{name.path}"
        has_gradients = image.has_directions and name.datatype in ("dwi", OTHER)
        images.append(
            ImageRecord(
                path=path + IMAGE,
                sha256=image.sha256,
                size=image.size,
                shape=image.shape,
                sidecar=f"{path}.json",
                bval=path + BVAL if has_gradients else None,
                bvec=path + BVEC if has_gradients else None,
                kind=image.kind,
                named_by=name.source,
            )
        )
    kept = [problem for problem in entry.problems if problem.code not in _CONVERSION_CODES]
    return replace(
        entry,
        images=tuple(images),
        no_images=staged.reason if not images else "",
        group=group_of(entry, staged, names),
        course=f"{COURSES}/{entry.entry_id}.png" if staged.has_course else None,
        problems=(*kept, *staged.problems),
    )


def group_of(entry: Entry, staged: Staged, names: Mapping[str, BidsName]) -> str:
    """Say what kind of acquisition a series is, in the same words at every visit: its name, less the visit.

    A series without a place in BIDS goes by its exported description; without that, it is of no kind.
    """
    for image in staged.images[:1]:
        name = names[f"{entry.entry_id}/{image.stem}"]
        if name.datatype != OTHER:
            entities = [f"{one}-{label}" for one, label in name.entities.items() if one not in _NOT_IN_A_GROUP]
            return f"{name.datatype}/{'_'.join([*entities, name.suffix])}"
        described = image.sidecar.get("SeriesDescription") or image.sidecar.get("ProtocolName")
        words = re.findall(r"[A-Za-z0-9]+", str(described)) if described else []
        if words:
            return f"{OTHER}/{'_'.join(words).lower()}"
    return ""


def advise(
    entries: Iterable[Entry], staged: Mapping[str, Staged], names: Mapping[str, BidsName]
) -> dict[str, tuple[ImageAdvice, ...]]:
    """Compare every image with those of the same scanner and sequence, and say what stands out."""
    advice: dict[str, tuple[ImageAdvice, ...]] = {}
    measured = []
    for entry in entries:
        told = []
        for image in staged[entry.entry_id].images:
            key = f"{entry.entry_id}/{image.stem}"
            # Images of one series, echoes say, are no likes of each other.
            sequence = f"{entry.group} {image.kind}".strip()
            told.append(
                ImageAdvice(
                    path=f"{NIFTI}/{names[key].path}{IMAGE}",
                    scanner=image.scanner,
                    sequence=sequence,
                    quality=image.quality,
                )
            )
            if entry.group:
                measured.append(
                    Measured(key=key, scanner=image.scanner, sequence=sequence, metrics=image.quality.values())
                )
        advice[entry.entry_id] = tuple(told)
    flags = flag_outliers(measured)
    return {
        entry_id: tuple(
            replace(one, flags=flags.get(f"{entry_id}/{image.stem}", ()))
            for one, image in zip(told, staged[entry_id].images, strict=True)
        )
        for entry_id, told in advice.items()
    }


def page_cases(
    entries: Iterable[Entry], staged: Mapping[str, Staged], advice: Mapping[str, tuple[ImageAdvice, ...]]
) -> list[PageCase]:
    """Make the cases of the page."""
    cases = []
    for entry in entries:
        images = staged[entry.entry_id].images
        label = str(images[0].sidecar.get("SeriesDescription") or "") if images else ""
        known = advice[entry.entry_id]
        flags = [check.text for image in known for check in image.quality.checks]
        flags += [describe_flag(flag) for image in known for flag in image.flags]
        metrics = [(one.name, show_metric(one)) for image in known[:1] for one in image.quality.metrics]
        cases.append(page_case(entry, data_set=NIFTI, label=label, flags=flags, metrics=metrics))
    return cases


def describe_flag(flag: Flag) -> str:
    """Say in a sentence what stands out."""
    side = "high" if flag.score > 0 else "low"
    return (
        f"{flag.metric} is {side}: {flag.value:.4g}, where {flag.others} others of this scanner and sequence have "
        f"{flag.median:.4g} at the median (modified z-score {flag.score:+.1f})."
    )


def show_metric(one: Metric) -> str:
    """Write a metric with its unit, or why it is not defined."""
    if one.value is None:
        return f"not defined: {one.reason}"
    unit = METRICS[one.name][0]
    return f"{one.value:.4g} {unit}".strip()
