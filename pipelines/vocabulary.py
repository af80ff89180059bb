"""Propose words for a study's own vocabulary: `scanward vocabulary`."""

from __future__ import annotations

import argparse
import sys

from pipelines.base import load_study
from tasks.errors import UsageError
from tasks.sort.store import SortStore


def propose_words(options: argparse.Namespace) -> int:
    """Print words that descriptors of several patients have and the vocabulary has not, the most frequent first.

    Nothing but the words and how many patients have them is printed: no word that only one patient has, that looks
    like an ID, or that is or holds an identifier of any patient.
    """
    # De-identification needs pydicom and the standard's tables; the other commands start without.
    from tasks.deidentify.descriptors import load_vocabulary, propose  # noqa: PLC0415
    from tasks.deidentify.findings import Findings  # noqa: PLC0415
    from tasks.deidentify.harvest import name_parts, whole  # noqa: PLC0415
    from tasks.deidentify.identity import patient_key  # noqa: PLC0415
    from tasks.deidentify.keymap import read_joined_patients  # noqa: PLC0415

    settings, workspace = load_study(options.study, options.dump, options.workspace)
    if not workspace.index.exists():
        raise UsageError(problem="This workspace has no index yet.", remedy="Run SortStudy first.")
    with SortStore(workspace.index, look_only=True) as store:
        headers = {shared for _, shared in store.headers().values()}
    # A patient under two IDs is one, or a word of theirs alone would be proposed.
    joined = read_joined_patients(settings.deidentify.same_patient)
    identifiers: set[str] = set()
    texts: list[tuple[str, str]] = []
    for header in headers:
        identifiers |= name_parts(header.patient_name) | name_parts(header.referring_physician_name)
        identifiers |= whole(header.patient_id) | set(header.other_patient_ids.split("\\"))
        patient_id = joined.get(header.patient_id, header.patient_id)
        patient = patient_key(patient_id, header.patient_name, header.study_instance_uid)
        described = (
            header.study_description,
            header.series_description,
            header.protocol_name,
            header.sequence_name,
        )
        texts += [(patient, text) for text in described if text]
    if workspace.findings.exists():
        with Findings(workspace.findings) as findings:
            for harvest in set(findings.by_source().values()):
                identifiers |= harvest.identifiers
    vocabulary = load_vocabulary(settings.deidentify.vocabulary)
    proposed = propose(texts, vocabulary, identifiers, at_least=options.at_least)
    if not proposed:
        sys.stdout.write("The vocabulary has every word that the descriptors of several patients share.\n")
        return 0
    sys.stdout.writelines(f"{word}\t{patients}\n" for word, patients in proposed)
    sys.stderr.write(
        "Look through them: a word that is a name must not be added. Those you want go into the study file, under "
        '[deidentify]: vocabulary = ["word", "other"]\n'
    )
    return 0
