"""How a person looks at the result and says what they think of it.

From Python: `from viewer import view; view("scan.nii.gz")`, or `VolumeView`, a Qt widget to put into another window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viewer.looking import view as view
    from viewer.qt.volume_view import VolumeView as VolumeView

__all__ = ["VolumeView", "view"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: commands without a window need neither Qt nor the readers of images.
    if name == "view":
        from viewer.looking import view  # noqa: PLC0415

        return view
    if name == "VolumeView":
        from viewer.qt.volume_view import VolumeView  # noqa: PLC0415

        return VolumeView
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
