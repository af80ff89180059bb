"""Draw the README's pictures of the window: `.venv/bin/python -m benchmarks.viewer_pictures MANIFEST ENTRY OUT`."""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tasks.review.manifest import read_manifest
from tasks.review.ratings import open_store
from tasks.review.reading import ReadingProtocol
from viewer.prefetch import Loader
from viewer.qt.application import application
from viewer.qt.reading import ReadingWindow
from viewer.session import Session


def main(manifest_path: Path, entry: str, out: Path) -> None:
    running = application()
    manifest, protocol = read_manifest(manifest_path), ReadingProtocol()
    with tempfile.TemporaryDirectory() as folder, Loader(1 << 30) as loader:
        store = open_store(
            Path(folder) / "reader.db",
            reader="reader",
            protocol=protocol,
            software="",
            manifest_sha256="",
            now=lambda: datetime.now(UTC),
            monotonic=time.monotonic,
        )
        session = Session(manifest, store, protocol, reader="reader")
        session.resume(entry)
        window = ReadingWindow(session, manifest, manifest_path.parent, loader)
        window.show()
        while window.display.is_empty:
            running.processEvents()
            time.sleep(0.01)
        for command in ["rotate-right"] * 9 + ["tilt-up"] * 4 + ["tick:motion"]:
            window.run(command)
        running.processEvents()
        window.planes.settle()
        running.processEvents()
        window.grab().save(str(out))
        window.close()
        store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
