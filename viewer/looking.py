"""Look at anything from Python: an array, a file, a folder, an image of nibabel's, or several of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UsageError
from viewer.display import Shown
from viewer.image import Image
from viewer.opening import image_of_array, image_of_nibabel, open_images
from viewer.windowing import measure


def images_of(source: Any, *, affine: NDArray[np.float64] | None = None, label: str = "") -> tuple[Image, ...]:
    """Make images of whatever can be looked at.

    Parameters
    ----------
    source
        A path to a DICOM folder or file, NIfTI, Analyze, MGH, MINC, PAR/REC or .npy file; an array as
        `viewer.opening.image_of_array` takes it; an image of nibabel's; an `Image`; or a list of these, to be seen one
        after the other or side by side.
    affine
        For arrays: four by four, to RAS+ millimetres.
    label
        What stands over an image; a path's own name if empty.

    Raises
    ------
    OpeningError, MissingPackageError, UsageError
        If something cannot be shown, or is nothing that can be.
    """
    if isinstance(source, Image):
        return (source,)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return open_images(path, label=label or path.name)
    if hasattr(source, "dataobj") and hasattr(source, "affine"):
        return (image_of_nibabel(source, label=label),)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return (image_of_array(np.asarray(source), affine, label=label),)
    if isinstance(source, Sequence) and source:
        return tuple(
            image
            for number, one in enumerate(source, 1)
            for image in images_of(one, affine=affine, label=label and f"{label} {number}")
        )
    raise UsageError(
        problem=f"A {type(source).__name__} cannot be looked at.",
        remedy="Give a path, an array, an image of nibabel's, or a list of them.",
    )


def shown_of(images: Sequence[Image]) -> list[Shown]:
    """Measure images, so that they can be put on screen."""
    return [Shown(image=image, statistics=measure(image), label=image.label) for image in images]


def view(
    source: Any,
    *,
    affine: NDArray[np.float64] | None = None,
    overlay: Any = None,
    title: str = "",
    block: bool | None = None,
) -> Any:
    """Open a window on an image; F1 shows its keys.

    Parameters
    ----------
    source, affine
        As for `images_of`. Arrays are indexed (i, j[, k[, t]]) and shown with i to the right unless `affine` says
        otherwise.
    overlay
        A mask or segmentation, in any of the ways an image can be given.
    title
        Of the window.
    block
        True to wait until the window is closed, False to go on at once; None waits in a script, and goes on at a
        Python or IPython prompt, where the window stays alive beside it.

    Returns
    -------
    viewer.qt.main_window.MainWindow
        Its `display` tells and changes what is shown; call `refresh` then.

    Raises
    ------
    OpeningError, MissingPackageError, UsageError
        If it cannot be shown, or Qt is not installed.
    """
    shown = shown_of(images_of(source, affine=affine, label=title))
    over = images_of(overlay, affine=affine)[0] if overlay is not None else None
    from viewer.qt.application import keep, run, show_images  # noqa: PLC0415 - Qt, which nothing else here needs

    window = show_images(shown, title=title or shown[0].label, overlay=over)
    if _is_at_a_prompt() if block is None else not block:
        keep(window)
    else:
        run(window)
    return window


def _is_at_a_prompt() -> bool:
    """Tell whether somebody types, and let windows live between two lines if so."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = ask() if ask is not None else None
    if shell is not None:
        shell.enable_gui("qt")
        return True
    # Python's own prompt runs Qt's events while it waits for a line; PyQt sees to it.
    return hasattr(sys, "ps1")
