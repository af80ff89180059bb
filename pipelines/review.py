"""x."""

from pipelines.base import StageTask


class PrepareReview(StageTask):
    """x."""
