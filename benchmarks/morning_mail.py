"""Draw the README's picture of the morning mail: `python benchmarks/morning_mail.py OUT.png` (needs chromium)."""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.monitor.finding import Severity
from tasks.monitor.report import Place
from tests.monitor.test_report import DEAF, FULL, finding, night, report

PLACES = (
    Place(name="Perth", machines=("perth-1", "perth-2")),
    Place(name="Auckland", machines=("auckland-1",)),
    Place(name="Taichung", machines=("taichung-1", "taichung-2", "taichung-3")),
    *(Place(name=name, machines=("m1",)) for name in ("Sydney", "Hobart", "Wellington")),
)


def main(out: Path) -> None:
    deaf = replace(DEAF, site="Taichung")
    clock = finding("taichung-3", "clock", "", Severity.WARNING, "the clock is 94.0 s behind, give or take 0.1 s.")
    nights = [
        night(0, replace(FULL, severity=Severity.WARNING), deaf, down=("auckland-1",)),
        night(1, FULL, deaf, replace(clock, site="Taichung"), down=("perth-2",)),
    ]
    trends = {FULL.key: [0.62 + 0.34 * step / 29 - 0.15 * (step < 12) * step / 12 for step in range(30)]}
    made = report(nights, places=PLACES, trends=trends, notes=("Study: 3 series are not complete yet.",))
    page = made.html
    for cid, picture in made.pictures.items():
        page = page.replace(f"cid:{cid}", f"data:image/png;base64,{base64.b64encode(picture).decode()}")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "mail.html"
        source.write_text(page, "utf-8")
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,600",
             f"--screenshot={out.absolute()}", source.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
