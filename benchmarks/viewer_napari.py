"""What napari takes for one plane of a NIfTI file; runs in napari's own interpreter, for benchmarks/viewer.py.

Prints JSON, in milliseconds: "first" from the start of the program, "step" and "contrast" the p95 of 60 changes, each
until it was drawn.
"""

from __future__ import annotations

import json
import sys
import time

BEGIN = time.perf_counter()

import napari  # noqa: E402 - the clock runs before napari is loaded
import nibabel  # noqa: E402
import numpy as np  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402


def main(path: str) -> None:
    data = np.asanyarray(nibabel.load(path).dataobj).T
    viewer = napari.Viewer()
    viewer.window.resize(1500, 900)
    layer = viewer.add_image(data, contrast_limits=(0, 900))
    drawn = []
    window = viewer.window._qt_viewer  # noqa: SLF001 - napari tells of its painting nowhere else
    window.canvas._scene_canvas.events.draw.connect(lambda _: drawn.append(time.perf_counter()))  # noqa: SLF001

    def until_drawn() -> None:
        before, deadline = len(drawn), time.perf_counter() + 5
        while len(drawn) == before and time.perf_counter() < deadline:
            QApplication.processEvents()

    until_drawn()
    found = {"first": (time.perf_counter() - BEGIN) * 1000}
    until = time.perf_counter() + 2
    while time.perf_counter() < until:
        QApplication.processEvents()
    spent: dict[str, list[float]] = {"step": [], "contrast": []}
    for number in range(60):
        for name, times in spent.items():
            begin = time.perf_counter()
            if name == "step":
                viewer.dims.set_current_step(0, number + 40)
            else:
                layer.contrast_limits = (number, 900 + number)
            until_drawn()
            times.append((time.perf_counter() - begin) * 1000)
    found.update({name: float(np.percentile(times, 95)) for name, times in spent.items()})
    viewer.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
