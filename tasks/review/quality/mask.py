"""Find the head: where there is signal, in one piece and without holes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 256
_TOP = 99.8  # percentile above which values are as bright as bright can be, or a few vessels stretch all bins
_LARGE = 1 << 20  # voxels from which every other one along each axis is enough to see a head by


def otsu_threshold(values: NDArray[Any]) -> float:
    """Return the value that parts dark from bright best: N. Otsu 1979, IEEE Trans. Syst. Man Cybern. 9:62.

    Parameters
    ----------
    values
        Any shape; the largest 0.2 % count as the value they begin with.
    """
    top = float(np.percentile(values, _TOP))
    low = float(values.min())
    if not top > low:
        return top
    counts, edges = np.histogram(np.minimum(values, top), bins=_BINS, range=(low, top))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[int(np.nanargmax(between)) + 1])


def head_mask(volume: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where the head is, as an array of the volume's shape.

    Parameters
    ----------
    volume
        (x, y, z), magnitudes.

    Returns
    -------
    array of bool
        The largest connected part above Otsu's threshold, closed, and filled slice by slice in three directions; all
        False if nothing stands out.
    """
    from scipy import ndimage  # noqa: PLC0415 - takes its time, and only those who measure need it

    step = 2 if volume.size > _LARGE else 1
    small = np.ascontiguousarray(volume[tuple(slice(None, None, step if size > 1 else 1) for size in volume.shape)])
    bright = small > otsu_threshold(small)
    labels, count = ndimage.label(bright)
    if not count:
        return np.zeros(volume.shape, bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    head = labels == int(np.argmax(sizes))
    padded = np.pad(head, 2)
    # A ball of two voxels bridges sulci and sinuses, and the frame keeps it from growing out of the image.
    head = ndimage.binary_closing(padded, ndimage.generate_binary_structure(3, 1), iterations=2)[2:-2, 2:-2, 2:-2]
    for axis in range(3):
        for index in range(head.shape[axis]):
            place = tuple(index if one == axis else slice(None) for one in range(3))
            head[place] = ndimage.binary_fill_holes(head[place])
    if step == 1:
        return np.asarray(head, bool)
    for axis, size in enumerate(volume.shape):
        if size > 1:
            head = np.repeat(head, step, axis=axis)
    return np.asarray(head[tuple(slice(0, size) for size in volume.shape)], bool)
