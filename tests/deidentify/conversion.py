"""Convert a folder with the real dcm2niix."""

from __future__ import annotations

import subprocess
from pathlib import Path


def convert(program: str, source: Path, target: Path) -> dict[str, bytes]:
    """Convert a folder of DICOM files into a new one; return what came out, by name."""
    target.mkdir()
    command = [program, "-b", "y", "-ba", "n", "-z", "n", "-f", "%s_%e", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-800:]
    return {path.name: path.read_bytes() for path in sorted(target.iterdir())}
