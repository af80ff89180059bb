"""Convert with the real dcm2niix, and export a series as the pipeline does; which folders of scanner data convert."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.deidentify.audit import conversion
from tasks.deidentify.audit.conversion import Converter
from tasks.deidentify.export import export_files
from tasks.deidentify.ledger import ExportRow
from tasks.deidentify.plan import ExportOrder, Person
from tasks.deidentify.profile import DEFAULT_PROFILE
from tests.deidentify.oracle import IDENTITY, SUBJECT

SAMPLE = (
    "dcm_qa_enh/In/Philips",
    "dcm_qa_enh/In/Siemens/XA10",
    "dcm_qa_nih/In/20180918Si/mr_0003",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0004",
    "dcm_qa_stc/In/Siemens/B15/2_ep2d_DTI_20_dir_AP",
    "dcm_qa_stc/In/UIH/R002/12_dti_tra_dir16_PA_rot",
)
"""One series a maker and release; the others are long."""

OTHERS = (
    "dcm_qa_nih/In/20180918GE/mr_0004",
    "dcm_qa_nih/In/20180918GE/mr_0005",
    "dcm_qa_nih/In/20180918GE/mr_0006",
    "dcm_qa_nih/In/20180918GE/mr_0007",
    "dcm_qa_nih/In/20180918Si/mr_0004",
    "dcm_qa_nih/In/20180918Si/mr_0005",
    "dcm_qa_nih/In/20180918Si/mr_0006",
    "dcm_qa_philips/In/Magdeburg_2014/fmri",
    "dcm_qa_philips/In/Vanderbilt_2018/601_WIP_dti_ax",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0005",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0006",
    "dcm_qa_stc/In/GE/ProtocolDataBlock/mr_0007",
    "dcm_qa_stc/In/GE/RTIA/2_epiRT_ascending",
    "dcm_qa_stc/In/GE/RTIAold/15_Zugfahrt",
    "dcm_qa_stc/In/GE/TriggerTime/4_epi_ascending",
    "dcm_qa_stc/In/Siemens/B12/2_FMRI_AX_ASC",
    "dcm_qa_stc/In/Siemens/B13/4_fMRIcontin",
    "dcm_qa_stc/In/Siemens/B17/6_ax_asc_35sl",
    "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_2",
    "dcm_qa_stc/In/Siemens/D13/ep2d_Asc_HF_10",
    "dcm_qa_stc/In/Siemens/E11/7_Rest_fMRI_AP",
    "dcm_qa_stc/In/Siemens/XA10/6_REST1_w_SMS_PF7-8",
    "dcm_qa_uih/In/DTI_132225/dti_tra_dir16_PA_rot_SaveBySlc__134057",
    "dcm_qa_uih/In/DTI_132225/t1_gre_fsp_3d_sag__132750",
)


def convert(program: str, source: Path, target: Path) -> dict[str, bytes]:
    """Convert a folder of DICOM files into a new one; return what came out, by name."""
    code, names = conversion.convert(program, source, target, seconds=60)
    assert code == 0
    return {name: (target / name).read_bytes() for name in names}


def files_of(series: Path) -> list[Path]:
    """List the DICOM files of a folder."""
    return [path for path in sorted(series.iterdir()) if path.is_file() and path.read_bytes()[128:132] == b"DICM"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A workspace in which one series is exported."""

    root: Path

    @property
    def export(self) -> Path:
        return self.root / "released" / "export"

    @property
    def quarantine(self) -> Path:
        return self.root / "identified" / "quarantine"

    @property
    def identified(self) -> Path:
        return self.root / "identified"

    def run(
        self, paths: Iterable[Path], program: str, *, identifiers: tuple[str, ...] = (), seconds: float = 60
    ) -> list[ExportRow]:
        """Export files as one series, with the conversions compared."""
        self.identified.mkdir(parents=True, exist_ok=True)
        orders = [
            ExportOrder(
                source=str(path),
                target=f"{SUBJECT.pseudonym}/ses-1/series/{number:05d}.dcm",
                identity=str(number),
                pseudonym=SUBJECT.pseudonym,
            )
            for number, path in enumerate(paths)
        ]
        person = Person(shift_days=SUBJECT.shift_days, identifiers=identifiers, dates=(), uids=())
        return export_files(
            orders,
            {SUBJECT.pseudonym: person},
            sorted_tree=Path("/"),
            export=self.export,
            quarantine=self.quarantine,
            profile=DEFAULT_PROFILE,
            identity=IDENTITY,
            advance=lambda count: None,
            converter=Converter(program=program, folder=self.identified, seconds=seconds),
        )

    def exported(self) -> list[Path]:
        """List every file of the export."""
        return [path for path in self.export.rglob("*") if path.is_file()]
