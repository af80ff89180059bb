"""How fast files are de-identified, beside dicognito and dicom-anonymizer on the same files.

Every contender reads a file and writes its result into the same folder. Run: .venv/bin/python benchmarks/deidentify.py
(after `make bench`, which installs the peers)
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import dicomanonymizer
import pydicom
from dicognito.anonymizer import Anonymizer
from measure import ge_files, print_table, rate, read_options

from tasks.deidentify.audit import Expectation, audit_file
from tasks.deidentify.identity import Identity, Subject
from tasks.deidentify.profile import DEFAULT_PROFILE
from tasks.deidentify.rewrite import rewrite

SUBJECT = Subject(pseudonym="SUB-0001", shift_days=-1000)
IDENTITY = Identity(bytes(range(32)))
EXPECTED = Expectation(
    pseudonym=SUBJECT.pseudonym,
    shift_days=SUBJECT.shift_days,
    identifiers=frozenset(),
    uids=frozenset(),
    codes=tuple(code for code, _ in DEFAULT_PROFILE.codes()),
)


def main() -> None:
    options = read_options("Measure de-identification.")
    files = ge_files(options.files)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.dcm"
        dicognito = Anonymizer()

        def with_dicognito(path: Path) -> None:
            dataset = pydicom.dcmread(path)
            dicognito.anonymize(dataset)
            dataset.save_as(out)

        def with_dicom_anonymizer(path: Path) -> None:
            dicomanonymizer.anonymize_dicom_file(str(path), str(out))

        def rewrite_only(path: Path) -> None:
            result = rewrite(path.read_bytes(), profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT)
            out.write_bytes(result.content)

        def rewrite_and_audit(path: Path) -> None:
            source = path.read_bytes()
            result = rewrite(source, profile=DEFAULT_PROFILE, identity=IDENTITY, subject=SUBJECT)
            out.write_bytes(result.content)
            if audit_file(source, result.content, EXPECTED):
                raise AssertionError("the audit must pass on these files")

        contenders = {
            "dicognito": with_dicognito,
            "dicom-anonymizer": with_dicom_anonymizer,
            "scanward, rewrite alone": rewrite_only,
            "scanward, rewrite and audit": rewrite_and_audit,
        }
        rates = {name: rate(act, files, rounds=options.rounds) for name, act in contenders.items()}
    print_table(f"De-identifying {len(files)} GE files, one process", rates, "dicognito")


if __name__ == "__main__":
    main()
