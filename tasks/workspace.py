"""Where things lie in a workspace: `identified/`, where patients can be read, and `released/`, where nobody can."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import DamagedRecordError, WorkspaceError
from tasks.files import make_folder, refusals_named, write_once

EXPORT_REPORT = "deidentification.json"
EXPORT_REPORT_PAGE = "deidentification.html"
EXPORT_CHECKSUMS = "deidentification.sha256"
INDEX, FINDINGS, LEDGER, KEY_MAP = "index.db", "findings.db", "export.db", "keymap.db"
"""The databases, by their names in `identified/`."""

EXPORT_PAPERS = frozenset({EXPORT_REPORT, EXPORT_REPORT_PAGE, EXPORT_CHECKSUMS})
"""What lies at the top of the export beside the subjects' folders and is no image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The folders and files of one workspace; every path is absolute.

    Attributes
    ----------
    root
        The workspace itself.
    key
        Eight hexadecimal digits drawn when the workspace was made: its name wherever its path must not show.
    desk
        The private folder with working copies of the databases (`tasks.desk`), if they are used instead of the
        originals.
    """

    root: Path
    key: str
    desk: Path | None = None

    @property
    def identified(self) -> Path:
        """Mode 0700: everything in which a patient can be read."""
        return self.root / "identified"

    @property
    def released(self) -> Path:
        """Everything that identifies nobody."""
        return self.root / "released"

    @property
    def index(self) -> Path:
        """The index of the dump (SQLite)."""
        return self.database(INDEX)

    @property
    def sorted_tree(self) -> Path:
        """The sorted tree; files may share inodes with the dump, so nothing in it is ever rewritten."""
        return self.identified / "sorted"

    @property
    def unpacked(self) -> Path:
        """The DICOM files that lie compressed or in archives in the dump."""
        return self.identified / "unpacked"

    @property
    def quarantine(self) -> Path:
        """Exported files that the audit refused."""
        return self.identified / "quarantine"

    @property
    def key_map(self) -> Path:
        """Which patient is which subject (SQLite, mode 0600)."""
        return self.database(KEY_MAP)

    @property
    def findings(self) -> Path:
        """What was collected of what points at patients."""
        return self.database(FINDINGS)

    @property
    def ledger(self) -> Path:
        """What became of each sorted file in the export."""
        return self.database(LEDGER)

    def database(self, name: str) -> Path:
        """Return where a database is to be opened."""
        return (self.desk or self.identified) / name

    @property
    def secret(self) -> Path:
        """The key of all pseudonymous identifiers (mode 0600)."""
        return self.identified / "secret"

    @property
    def plans(self) -> Path:
        """Frozen work lists."""
        return self.identified / "plans"

    @property
    def receipts(self) -> Path:
        """Proofs that a stage finished."""
        return self.identified / "receipts"

    @property
    def lists(self) -> Path:
        """What was set aside, and why."""
        return self.identified / "lists"

    @property
    def logs(self) -> Path:
        """Faults in full, which may quote patients."""
        return self.identified / "logs"

    @property
    def converted(self) -> Path:
        """What each exported series was converted to, before it has a name in the data set."""
        return self.identified / "converted"

    @property
    def nifti_record(self) -> Path:
        """What scanward has put into the data set."""
        return self.identified / "nifti.json"

    @property
    def monitor(self) -> Path:
        """The nights of the watch, known host keys, the spool of its mail; the addresses of hospitals stand there."""
        return self.identified / "monitor"

    @property
    def export(self) -> Path:
        """The de-identified DICOM files."""
        return self.released / "export"

    @property
    def nifti(self) -> Path:
        """The converted images, as a BIDS data set."""
        return self.released / "nifti"

    @property
    def review(self) -> Path:
        """The review manifest and its pictures."""
        return self.released / "review"


def open_workspace(root: Path, *, dump: Path | None = None) -> Workspace:
    """Open a workspace, making its folders on first use.

    Parameters
    ----------
    root
        The workspace's folder.
    dump
        The dump it is made from: neither may lie inside the other.

    Raises
    ------
    WorkspaceError
        If it cannot be written, or dump and workspace lie inside one another.
    DamagedRecordError
        If the workspace's key was changed.
    """
    root = Path(os.path.abspath(root))
    if dump is not None:
        real_root, real_dump = Path(os.path.realpath(root)), Path(os.path.realpath(dump))
        if real_root == real_dump or real_root in real_dump.parents or real_dump in real_root.parents:
            raise WorkspaceError(path=root, problem="and the dump lie inside one another")
    identified = root / "identified"
    try:
        make_folder(root)
    except FileNotFoundError as fault:
        # What /proc and its like say where no folder can be made.
        raise WorkspaceError(path=root, problem="cannot be made there") from fault
    make_folder(identified, mode=0o700)
    name = identified / "workspace-key"
    with refusals_named(identified):
        if not os.access(identified, os.W_OK | os.X_OK):
            raise WorkspaceError(path=root, problem="cannot be written (permission denied)")
        if not name.exists():
            write_once(name, secrets.token_hex(4).encode("ascii"), mode=0o600)
        key = name.read_text("ascii", "replace").strip()
    if not re.fullmatch(r"[0-9a-f]{8}", key):
        raise DamagedRecordError(path=name, problem="it does not hold eight hexadecimal digits")
    workspace = Workspace(root=root, key=key)
    for folder in (workspace.sorted_tree, workspace.plans, workspace.receipts, workspace.lists, workspace.logs):
        make_folder(folder, mode=0o700)
    make_folder(workspace.released)
    return workspace
