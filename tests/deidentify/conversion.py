"""Convert a folder with the real dcm2niix; and which folders of the scanner data convert."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
    target.mkdir()
    command = [program, "-b", "y", "-ba", "n", "-z", "n", "-f", "%s_%e", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-800:]
    return {path.name: path.read_bytes() for path in sorted(target.iterdir())}
