"""Say in words why a file was not exported."""

from __future__ import annotations

from tasks.deidentify.audit.compare import FINDINGS
from tasks.deidentify.audit.conversion import CONVERSION_FINDINGS
from tasks.deidentify.export import AUDIT_PREFIX, VANISHED
from tasks.deidentify.ocr import OCR_REASONS
from tasks.deidentify.profile import REFUSAL_REASONS
from tasks.deidentify.rewrite import REFUSALS

AUDIT_FINDINGS = {**FINDINGS, **CONVERSION_FINDINGS}
"""Everything that any part of the audit can find: code to sentence."""

QUARANTINE_REASONS = {
    **REFUSAL_REASONS,
    **REFUSALS,
    **OCR_REASONS,
    VANISHED: "The file is no longer in the sorted tree.",
    **{AUDIT_PREFIX + code: f"The audit refused it: {sentence}" for code, sentence in AUDIT_FINDINGS.items()},
}
"""Every reason why a sorted file is not in the export: code to sentence."""


def explain(reason: str) -> str:
    """Return the sentence for a reason code; the audit's findings may be several, joined by plus signs."""
    if reason.startswith(AUDIT_PREFIX):
        findings = reason.removeprefix(AUDIT_PREFIX).split("+")
        return "The audit refused it: " + " ".join(AUDIT_FINDINGS[finding] for finding in findings)
    return QUARANTINE_REASONS[reason]
