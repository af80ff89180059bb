"""Load one series: its headers, the order of its planes, and the values of its voxels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tasks.review.finding import Finding, finding
from tasks.review.geometry import Arrangement, Geometry, arrange_planes
from tasks.review.pixels import (
    PixelFormat,
    decode,
    pixel_format,
    quiet_pydicom,
    read_header,
    rescale,
    transfer_syntax,
    value_type,
)
from tasks.review.plane import (
    MosaicGrid,
    Plane,
    cut,
    cut_plane,
    is_mosaic,
    items,
    mosaic_grid,
    number,
    planes_in,
    settle_grid,
    texts,
    uid_text,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """What a header says of how the picture was acquired, as far as it is measured or a term of the standard.

    Attributes
    ----------
    modality
        A term of the standard, or "OT".
    sequence
        ScanningSequence, reduced to the terms the standard defines (SE IR GR EP RM).
    dimensions
        MRAcquisitionType: "1D", "2D", "3D" or empty.
    repetition_time, echo_time, inversion_time
        Milliseconds, or None.
    peak_kilovoltage
        KVP, or None.
    """

    modality: str
    sequence: tuple[str, ...] = ()
    dimensions: str = ""
    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    peak_kilovoltage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One readable file of a series.

    Attributes
    ----------
    path
        Where it is.
    sop_class, transfer_syntax
        UIDs.
    acquisition
        What its header says of the acquisition.
    pixels
        How its pixels are stored, or the finding that says why they cannot be had.
    grid
        How it is cut, if it is a mosaic.
    """

    path: Path
    sop_class: str
    transfer_syntax: str
    acquisition: Acquisition
    pixels: PixelFormat | Finding
    grid: MosaicGrid | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The headers of one series, in order.

    Attributes
    ----------
    paths
        The files, sorted by name; `Plane.file` counts in this list.
    instances
        For each file what could be read, or why it could not be.
    arrangement
        The planes, in order, and the verdict.
    """

    paths: tuple[Path, ...]
    instances: tuple[Instance | Finding, ...]
    arrangement: Arrangement

    @property
    def geometry(self) -> Geometry:
        """The verdict on the series."""
        return self.arrangement.geometry

    def ordered_files(self) -> list[Path]:
        """List every file once: as their slices follow each other volume by volume, then what is in no volume."""
        planes = self.arrangement.planes
        order = [planes[index].file for volume in self.arrangement.volumes for index in volume]
        order += [planes[index].file for index in self.arrangement.left_out]
        order += range(len(self.paths))
        return [self.paths[file] for file in dict.fromkeys(order)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """The voxels of one series.

    Attributes
    ----------
    array
        (slices, rows, columns), or (volumes, slices, rows, columns) if there are several; colour adds an axis of
        three. None if the planes form no array (verdict "planes") or nothing could be decoded. A plane that could
        not be decoded is filled with zeros.
    images
        Each plane of the first volume, in slice order (for the verdict "planes", every plane): an array (rows,
        columns), for colour (rows, columns, 3); None if it could not be decoded.
    planes
        Where each of `images` lies.
    geometry
        The verdict on the series.
    count
        How many volumes the series has, loaded or not.
    inverted
        True if low values are meant to be bright (MONOCHROME1).
    padding
        The value that stands for "no measurement", after rescaling; None if there is none.
    problems
        What could not be decoded, and why.
    """

    array: NDArray[Any] | None
    images: tuple[NDArray[Any] | None, ...]
    planes: tuple[Plane, ...]
    geometry: Geometry
    count: int
    inverted: bool = False
    padding: float | None = None
    problems: tuple[Finding, ...] = ()

    @property
    def is_colour(self) -> bool:
        """True if voxels are red, green and blue."""
        return any(image is not None and image.ndim == 3 for image in self.images)


_MODALITIES = frozenset(
    {
        "CR",
        "CT",
        "DX",
        "ECG",
        "EEG",
        "ES",
        "GM",
        "IO",
        "MG",
        "MR",
        "NM",
        "OCT",
        "OP",
        "OT",
        "PT",
        "PX",
        "REG",
        "RF",
        "RG",
    }
    | {"RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SEG", "SM", "SR", "US", "VA", "XA", "XC"}
)
# Of PS3.3 C.7.3.1.1.1, what carries pictures. Another value is not repeated: nobody knows what it is.

_SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})
# PS3.3 C.8.3.1, Scanning Sequence (0018,0020).


def read_series(paths: Iterable[Path]) -> Series:
    """Read the headers of one series' files and put their planes in order.

    Parameters
    ----------
    paths
        Files of one series, in any order.

    Returns
    -------
    Series
        A file that cannot be read, or whose pixels cannot be had, is there as a finding. Of mosaics the pixels are
        looked at too, since only they tell how many tiles are used.
    """
    ordered = tuple(sorted(paths, key=lambda path: (path.name, path)))
    instances: list[Instance | Finding] = []
    whole: list[Plane] = []
    unresolved: list[str] = []
    for file, path in enumerate(ordered):
        header = read_header(path)
        if isinstance(header, Finding):
            instances.append(header)
            continue
        dataset, offset = header
        with quiet_pydicom():
            instance = _instance(path, dataset, offset)
            whole += planes_in(dataset, source=path.name, file=file)
            if is_mosaic(dataset) and instance.grid is None and not isinstance(instance.pixels, Finding):
                unresolved.append(path.name)
        instances.append(instance)
    grids = _grids(instances)
    planes: list[Plane] = []
    for plane in whole:
        holder = instances[plane.file]
        if isinstance(holder, Instance) and holder.grid is not None:
            planes += cut_plane(plane, grids[holder.grid])
        else:
            planes.append(plane)
    instances = [
        replace(one, grid=grids[one.grid]) if isinstance(one, Instance) and one.grid is not None else one
        for one in instances
    ]
    arrangement = arrange_planes(planes)
    if unresolved:
        text = "The mosaic cannot be cut into slices: its size does not fit the acquisition matrix."
        found = (*arrangement.geometry.findings, finding("mosaic-unresolved", text, unresolved))
        arrangement = replace(arrangement, geometry=replace(arrangement.geometry, findings=found))
    return Series(paths=ordered, instances=tuple(instances), arrangement=arrangement)


def _instance(path: Path, dataset: Dataset, offset: int) -> Instance:
    pixels = pixel_format(path, dataset, offset)
    return Instance(
        path=path,
        sop_class=uid_text(dataset, "SOPClassUID"),
        transfer_syntax=transfer_syntax(dataset),
        acquisition=_acquisition(dataset),
        pixels=pixels,
        grid=mosaic_grid(dataset) if is_mosaic(dataset) and not isinstance(pixels, Finding) else None,
    )


def _acquisition(dataset: Dataset) -> Acquisition:
    modality = texts(dataset, "Modality")
    dimensions = texts(dataset, "MRAcquisitionType")
    sequence = tuple(term for term in texts(dataset, "ScanningSequence") if term in _SEQUENCES)
    timing = dataset
    for groups in items(dataset, "SharedFunctionalGroupsSequence") + items(dataset, "PerFrameFunctionalGroupsSequence"):
        for item in items(groups, "MRTimingAndRelatedParametersSequence"):
            timing = item
            break
        else:
            continue
        break
    return Acquisition(
        modality=modality[0] if modality and modality[0] in _MODALITIES else "OT",
        sequence=sequence or _enhanced_sequence(dataset),
        dimensions=dimensions[0] if dimensions and dimensions[0] in ("1D", "2D", "3D") else "",
        repetition_time=number(timing, "RepetitionTime"),
        echo_time=number(dataset, "EchoTime"),
        inversion_time=number(dataset, "InversionTime"),
        peak_kilovoltage=number(dataset, "KVP"),
    )


def _enhanced_sequence(dataset: Dataset) -> tuple[str, ...]:
    """Say what an enhanced header says in the terms of a classic one (PS3.3 C.8.13.4)."""
    echo, found = texts(dataset, "EchoPulseSequence")[:1], []
    if echo in (("SPIN",), ("BOTH",)):
        found.append("SE")
    if echo in (("GRADIENT",), ("BOTH",)):
        found.append("GR")
    if texts(dataset, "InversionRecovery")[:1] == ("YES",):
        found.append("IR")
    if texts(dataset, "EchoPlanarPulseSequence")[:1] == ("YES",):
        found.append("EP")
    return tuple(found)


def _grids(instances: Sequence[Instance | Finding]) -> dict[MosaicGrid, MosaicGrid]:
    """Settle, for each way of cutting that the headers name, how the pixels bear it out."""
    alike: dict[MosaicGrid, list[Instance]] = defaultdict(list)
    for instance in instances:
        if isinstance(instance, Instance) and instance.grid is not None:
            alike[instance.grid].append(instance)
    settled = {}
    for grid, members in alike.items():
        settled[grid] = settle_grid(grid, (image for member in members for image in _frames(member)))
    return settled


def _frames(instance: Instance) -> Iterable[NDArray[Any]]:
    if isinstance(instance.pixels, PixelFormat):
        stored = decode(instance.path, instance.pixels)
        if not isinstance(stored, Finding) and stored.ndim == 3:
            yield from stored


def load_volume(paths: Iterable[Path]) -> Volume:
    """Load the voxels of one series.

    Parameters
    ----------
    paths
        Files of one series, in any order.

    Returns
    -------
    Volume
        Whatever cannot be decoded is named in its `problems`.
    """
    return load_voxels(read_series(paths))


def load_voxels(series: Series, *, first_only: bool = False) -> Volume:
    """Load the voxels of a series whose headers were read.

    Integers stay integers as long as every slope and intercept is whole; else values are float32. Memory holds the
    array and one instance at a time.

    Parameters
    ----------
    series
        From `read_series`.
    first_only
        Load only the first volume; of the others, compressed instances are decoded to see that they can be.

    Returns
    -------
    Volume
        With `array` of the first volume alone if `first_only`.
    """
    arrangement, geometry = series.arrangement, series.geometry
    problems = [one for one in series.instances if isinstance(one, Finding)]
    readable: dict[int, tuple[Instance, PixelFormat]] = {}
    for file, instance in enumerate(series.instances):
        if isinstance(instance, Instance):
            if isinstance(instance.pixels, Finding):
                problems.append(instance.pixels)
            else:
                readable[file] = (instance, instance.pixels)
    formats = [pixels for _, pixels in readable.values()]
    kind = value_type(formats)
    colour = any(pixels.is_colour for pixels in formats)
    wanted = arrangement.volumes[:1] if first_only else arrangement.volumes
    slots = {index: (v, k) for v, volume in enumerate(wanted) for k, index in enumerate(volume)}
    array: NDArray[Any] | None = None
    if geometry.shape is not None and formats:
        shape = (len(wanted), *geometry.shape[1:])
        array = np.zeros((*shape, 3) if colour else shape, dtype=kind)
    images: list[NDArray[Any] | None] = [None] * len(wanted[0]) if wanted else []
    by_file: dict[int, list[int]] = defaultdict(list)
    for index, plane in enumerate(arrangement.planes):
        by_file[plane.file].append(index)
    decoded_any = False
    for file, (instance, pixels) in readable.items():
        placed = [index for index in by_file[file] if index in slots]
        if not placed and pixels.is_native:
            continue
        stored = decode(instance.path, pixels)
        if isinstance(stored, Finding):
            problems.append(stored)
            continue
        table = _table(instance.path) if pixels.has_table else None
        for index in placed:
            plane = arrangement.planes[index]
            frame = stored[plane.frame]
            if plane.tile is not None and instance.grid is not None:
                frame = cut(frame, instance.grid, plane.tile)
            values = rescale(_coloured(frame, colour=colour), pixels, plane.frame, kind, table)
            if isinstance(values, Finding):
                problems.append(replace(values, files=(instance.path.name,)))
                continue
            v, k = slots[index]
            decoded_any = True
            if array is not None:
                array[v, k] = values
                values = array[v, k]
            if v == 0:
                # A tile is a view of its mosaic; a copy lets the rest of the mosaic go.
                images[k] = values if array is not None else np.ascontiguousarray(values)
    if not decoded_any:
        array = None
    planes = tuple(arrangement.planes[index] for index in wanted[0]) if wanted else ()
    return Volume(
        array=array[0] if array is not None and len(wanted) == 1 else array,
        images=tuple(images),
        planes=planes,
        geometry=geometry,
        count=len(arrangement.volumes),
        inverted=bool(formats) and all(pixels.photometric == "MONOCHROME1" for pixels in formats),
        padding=_padding(formats),
        problems=tuple(problems),
    )


def _coloured(frame: NDArray[Any], *, colour: bool) -> NDArray[Any]:
    """Give a grey frame in a series that is otherwise in colour the same shape."""
    if not colour or frame.ndim == 3:
        return frame
    highest = max(1, int(frame.max(initial=1)))
    grey = (frame.astype(np.float32) * (255 / highest)).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def _table(path: Path) -> Dataset | None:
    header = read_header(path)
    return None if isinstance(header, Finding) else header[0]


def _padding(formats: Sequence[PixelFormat]) -> float | None:
    """Return the padding value after rescaling, if all instances agree on it."""
    values = set()
    for one in formats:
        if one.padding is None or one.has_table or one.is_colour:
            return None
        # (0028,0120) may be stored unsigned though pixels are signed, or the other way round.
        stored = int(one.padding) & ((1 << one.bits_allocated) - 1)
        if one.signed and stored >= 1 << (one.bits_allocated - 1):
            stored -= 1 << one.bits_allocated
        values |= {stored * slope + intercept for slope, intercept in one.rescales}
    padding = values.pop() if len(values) == 1 else None
    return padding if padding is not None and math.isfinite(padding) else None
