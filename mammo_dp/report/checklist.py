# SPDX-License-Identifier: Apache-2.0
"""Where a page answers TRIPOD+AI and NIST SP 800-226, item by item, and what it leaves open.

Sources: Collins et al. 2024, BMJ 385:e078378 (checklist of 11 January 2024, numbers and topics);
Near, Darais, Lefkovitz, Howarth 2025, NIST SP 800-226 (the factors of its pyramid and the headings
around them). Nothing here says that a study is sound: a checklist is about completeness.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

_AUTHORS = "for the authors to write: a page made from run folders does not know it"
_NO_DATA = "crops.csv has no column for it; see the publication of the data set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a checklist.

    Attributes:
        number: Its number, or empty.
        topic: Its topic, as the checklist has it.
        sections: Sections of the page that answer it, most important first.
        note: What is answered there, or why nothing is.
    """

    number: str
    topic: str
    sections: tuple[str, ...]
    note: str


# number, topic, sections that answer it, what they say or why it is left open
_TRIPOD: tuple[tuple[str, str, str, str], ...] = (
    ("1", "Title", "summary", "outcome and kind of study"),
    ("2", "Abstract", "summary", "key results; setting and funding are for the authors"),
    ("3a", "Background: healthcare context", "", _AUTHORS),
    ("3b", "Background: target population and purpose", "", _AUTHORS),
    ("3c", "Background: health inequalities", "", _AUTHORS),
    ("4", "Objectives", "summary", "development and evaluation, utility against privacy"),
    ("5a", "Data: sources", "data", "names and numbers; representativeness is for the authors"),
    ("5b", "Data: dates", "", _NO_DATA),
    ("6a", "Participants: setting", "", _NO_DATA),
    ("6b", "Participants: eligibility", "", _NO_DATA),
    ("6c", "Participants: treatments", "", _NO_DATA),
    ("7", "Data preparation", "lineage reproduce", "commands that cut and checked the crops"),
    ("8a", "Outcome: definition", "data", "malignant is 1, and where labels come from"),
    ("8b", "Outcome: assessors", "", _NO_DATA),
    ("8c", "Outcome: blinding", "", _NO_DATA),
    ("9a", "Predictors: choice", "configurations", "pixels of one crop, nothing else"),
    ("9b", "Predictors: definition", "data configurations", "size, spacing and rule of the crops"),
    ("9c", "Predictors: assessors", "", _NO_DATA),
    ("10", "Sample size", "data", "numbers only; no calculation was recorded"),
    ("11", "Missing data", "data", "records that could not become crops are counted there"),
    ("12a", "Analytical methods: use of data", "data", "which split was used for what"),
    ("12b", "Analytical methods: predictors", "configurations", "size and augmentation"),
    ("12c", "Analytical methods: type of model", "configurations", "every setting of the run"),
    ("12d", "Analytical methods: heterogeneity", "", "crops.csv names no centre or country"),
    ("12e", "Analytical methods: measures", "utility calibration roc", "with intervals"),
    ("12f", "Analytical methods: updating", "lineage", "a recalibration is a stage of its own"),
    ("12g", "Analytical methods: predictions", "reproduce", "the commands, with hashes"),
    ("13", "Class imbalance", "configurations", "class weight and prior; nothing is resampled"),
    ("14", "Fairness", "subgroups", "measured where the manifest has groups; nothing corrected"),
    ("15", "Model output", "calibration", "a probability; no threshold is part of the model"),
    ("16", "Training versus evaluation", "data", "numbers and classes of both"),
    ("17", "Ethical approval", "", _AUTHORS),
    ("18a", "Open science: funding", "", _AUTHORS),
    ("18b", "Open science: conflicts of interest", "", _AUTHORS),
    ("18c", "Open science: protocol", "", _AUTHORS),
    ("18d", "Open science: registration", "", _AUTHORS),
    ("18e", "Open science: data sharing", "", _AUTHORS),
    ("18f", "Open science: code sharing", "reproduce", "commands, commits and versions"),
    ("19", "Patient and public involvement", "", _AUTHORS),
    ("20a", "Participants: flow", "data lineage", "patients and crops per stage"),
    ("20b", "Participants: characteristics", "data subgroups", "as far as crops.csv has them"),
    ("20c", "Participants: comparison", "data", "classes of training and evaluation"),
    ("21", "Model development", "data", "patients and malignant crops in each analysis"),
    ("22", "Model specification", "lineage configurations", "hash, settings and origin"),
    ("23a", "Model performance", "utility calibration roc subgroups", "with intervals"),
    ("23b", "Model performance: heterogeneity", "", "crops.csv names no centre or country"),
    ("24", "Model updating", "lineage", "a recalibration is a stage of its own"),
    ("25", "Interpretation", "", _AUTHORS),
    ("26", "Limitations", "excluded", "of the guarantee; those of the study are for the authors"),
    ("27a", "Usability: poor or missing input", "", _AUTHORS),
    ("27b", "Usability: interaction and expertise", "", _AUTHORS),
    ("27c", "Usability: next steps", "", _AUTHORS),
)
_NIST: tuple[tuple[str, str, str, str], ...] = (
    ("", "Privacy parameters ε and δ", "statement", "end to end, per cohort"),
    ("", "Variant of differential privacy", "statement", "(ε, δ), by privacy loss distributions"),
    ("", "Unit of privacy", "statement", "unit, adjacency, and declared crops per patient"),
    (
        "",
        "Comparing guarantees",
        "utility",
        "one axis holds one unit, δ and adjacency, or names all",
    ),
    (
        "",
        "Mixing with other data releases",
        "statement",
        "this lineage only; others: privacy compose",
    ),
    (
        "",
        "Auditing and empirical measures",
        "attacks corridor reconstruction",
        "they supplement it",
    ),
    ("", "Algorithms and correctness", "statement reproduce", "mechanism, noise, sampling, steps"),
    ("", "Utility and accuracy", "utility benchmark", "with intervals"),
    ("", "Bias", "subgroups", "systemic bias, as far as groups are known"),
    ("", "Machine learning", "configurations", "noisy steps on clipped gradients per unit"),
    ("", "Synthetic data", "samples fidelity lineage", "who stands behind generated crops"),
    ("", "Query model", "statement", "data release: the final weights, once"),
    ("", "Trust model", "statement attacks", "central: whoever trains is trusted"),
    ("", "Side channels and implementation", "excluded statement", "randomness and precision"),
    ("", "Data security and access control", "excluded", "which files stay private"),
    ("", "Data collection exposure", "", "for the hospital: collection precedes this pipeline"),
)


def tripod(present: AbstractSet[str]) -> list[Item]:
    """Items of TRIPOD+AI.

    Args:
        present: Sections that the page has; an item whose sections are all absent is not answered.
    """
    return _items(_TRIPOD, present)


def nist(present: AbstractSet[str]) -> list[Item]:
    """Factors of NIST SP 800-226; ``present`` as for :func:`tripod`."""
    return _items(_NIST, present)


def _items(entries: tuple[tuple[str, str, str, str], ...], present: AbstractSet[str]) -> list[Item]:
    items = []
    for number, topic, sections, note in entries:
        found = tuple(name for name in sections.split() if name in present)
        if sections and not found:
            note = f"these runs hold nothing for the section {sections.split()[0]}"
        items.append(Item(number=number, topic=topic, sections=found, note=note))
    return items


def answers(section: str) -> str:
    """Items that a section answers, by name, for its heading."""
    numbers = [number for number, _, sections, _ in _TRIPOD if section in sections.split()]
    topics = [topic for _, topic, sections, _ in _NIST if section in sections.split()]
    parts = []
    if numbers:
        parts.append(f"TRIPOD+AI {', '.join(numbers)}")
    if topics:
        parts.append(f"NIST SP 800-226: {', '.join(topics)}")
    return " · ".join(parts)
