"""x."""

from pipelines.base import StageTask


class DeidentifyStudy(StageTask):
    """x."""
