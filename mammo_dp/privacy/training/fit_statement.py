# SPDX-License-Identifier: Apache-2.0
"""The statement of a fit: how it is written, and what ``verify`` holds it against.

It is derived, not typed: parents come from the inputs in ``run.json``, patients from the manifest
that was read, mechanisms from the steps that were executed. ``verify`` compares it with the account
in the released checkpoint, where training left it step by step, and with the configuration.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import torch

from data_prep.manifest import CropsManifest, Split, Unit
from mammo_dp.privacy.accounting.account import PLANNED, Noisy, fits_of, planned
from mammo_dp.privacy.accounting.selection import SelectionPlan
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.document import (
    EVIDENCE_NAME,
    FILE_NAME,
    ledger_of,
    read_evidence,
    read_statement,
    run_facts,
    write_statement,
)
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger, stage_name
from mammo_dp.privacy.statement.lineage import (
    HUB_SOURCE,
    PACKAGE_SOURCE,
    inputs_ledger,
    loose_delta,
    public_ledger,
)
from mammo_dp.privacy.statement.recompute import RESTORE
from mammo_dp.privacy.statement.seals import seal_doubt
from mammo_dp.privacy.statement.verify import RUN_AGAIN, Evidence, StageCheck
from mammo_dp.privacy.training.monitors import (
    configured_splits,
    monitored_splits,
    monitors_of,
    of_other_splits,
    unseen_monitors,
)
from mammo_dp.privacy.training.outside import SEEDED, is_seeded, outside_code
from mammo_dp.privacy.training.sampling import FRESH_KEY
from mammo_dp.runs import FILE_NAME as RUN
from mammo_dp.runs import RELEASED, RunRecord, close_run, file_sha256, read_run

if TYPE_CHECKING:  # lightning takes seconds to import; reading statements does without
    from lightning.pytorch import Trainer


# Settings that a statement is held against, by the names of the arguments in run.json.
MODEL_SETTINGS = ("delta", "clipping_norm")
DATA_SETTINGS = ("unit", "rate", "public_size", "crops_per_patient", "insecure_seed", "train_split")
START_SETTING = "weights"  # of a classifier
CLASS_SETTINGS = ("malignant_weight", "prior")  # of a classifier; constants, no counts
PUBLIC_STARTS = ("hub", "package")  # values of it that are no file, see classifier/weights.py
# Of a fit that takes part in a selection, until it is chosen.
CANDIDATE = "as a candidate of a selection, which covers the fit that it chooses alone"
CHOSEN = (
    "This covers the release of one fit, the best. The others, their scores and how many there "
    "were stay private."
)


def write_fit_statement(
    record: RunRecord, trainer: "Trainer", released: Path, plan: SelectionPlan | None = None
) -> None:
    """Writes the statement of a fit beside its weights.

    Args:
        record: The run.
        trainer: After ``fit``, with module and data module.
        released: File of the weights, below the run folder.
        plan: How the fit takes part in a selection, if it does; then nothing is guaranteed before
            it is chosen, see :func:`state_chosen`.

    Raises:
        PrivacyError: If it is unknown whose data were used.
    """
    from mammo_dp.privacy.training.module import DPTraining

    module = trainer.lightning_module
    data = trainer.datamodule  # type: ignore[attr-defined]
    manifest, split = getattr(data, "manifest", None), getattr(data, "train_split", None)
    if not isinstance(manifest, CropsManifest) or split is None:
        raise PrivacyError(
            f"data: {type(data).__name__} has no crops manifest, so nobody knows whose data were "
            "used. Use mammo_dp.CropsDataModule or mammo_dp.DPCropsDataModule."
        )
    _require_input(record, type(data).__name__, manifest)
    private = module if isinstance(module, DPTraining) else None
    sampling = private.sampling if private is not None else None
    unit: Unit = sampling.unit if sampling is not None else "patient"
    # An account without a step is none: whatever changed the weights, it was not private steps.
    counted = () if private is None else private.executed
    mechanisms: Sequence[Noisy | None] = counted or (None,)
    if plan is not None and counted:
        if private is not None and private.accounted_steps != trainer.max_steps:
            raise PrivacyError(
                f"selection: the fit took {private.accounted_steps} of {trainer.max_steps} steps, "
                "and all fits of a selection have one account. Remove what ends a fit early."
            )
        mechanisms = (plan.of(counted),)
    rows = getattr(data, "train_rows", None) or manifest.rows(split)
    void = "" if private is None else private.void
    if plan is not None:
        void = void or CANDIDATE
    ledger = (
        fit_parents(record)
        .joined([public_ledger(module)])
        .plus(
            *(
                Access.of_training(
                    stage_name(type(module).__name__, file_sha256(released)),
                    manifest,
                    used,
                    unit=unit,
                    mechanism=mechanism,
                    released=file_sha256(released),
                    public_size=None if sampling is None else sampling.public_size,
                    crops_per_patient=data.crops_per_patient if unit == "crop" else None,
                    void=void,
                )
                for used in sorted({split, *(manifest.crops[row].split for row in rows)})
                for mechanism in mechanisms
            ),
            *_selected(record, trainer, manifest, split, file_sha256(released), plan),
        )
    )
    write_statement(
        record.folder,
        ledger,
        delta=private.budget.delta if private is not None and counted else loose_delta(ledger),
        artefact=released,
        randomness=(
            randomness(data.sampling.unit, seeded=is_seeded(data)) if private is not None else None
        ),
        precision=str(trainer.precision),
        run=record,
    )


def require_candidate(folder: Path, account: Noisy) -> tuple[str, str]:
    """Checks that a fit of a selection says, sealed, what the selection declared.

    Args:
        folder: Run of the fit.
        account: Of the selection, one fit among others.

    Returns:
        SHA-256 of its weights and of its statement.

    Raises:
        PrivacyError: If somebody changed the statement, or the fit has another account.
    """
    stored, evidence = read_statement(folder), read_evidence(folder)
    doubt = seal_doubt(stored)
    weights, statement = file_sha256(folder / RELEASED), file_sha256(folder / FILE_NAME)
    own = [access for access in ledger_of(stored).accesses if access.void == CANDIDATE]
    if not doubt and (evidence is None or evidence["run"] != run_facts(read_run(folder))):
        doubt = f"does not fit {EVIDENCE_NAME} or {RUN}"
    elif not doubt and stored["artefact"]["sha256"] != weights:
        doubt = "is about other weights"
    elif not doubt and (len(own), {access.mechanism for access in own}) != (1, {account}):
        doubt = "has another account than the selection declared"
    if doubt:
        raise PrivacyError(
            f"{folder / FILE_NAME}: {doubt}. Start anew in another folder; what was spent here "
            "comes on top."
        )
    return weights, statement


def state_chosen(folder: Path) -> None:
    """Writes anew the statement of a candidate, in a copy of its run: that of the fit chosen.

    Args:
        folder: The copy, which is what is released.
    """
    record, stored = read_run(folder), read_statement(folder)
    ledger = ledger_of(stored, read_evidence(folder))
    chosen = [
        replace(access, void="", note=CHOSEN) if access.void == CANDIDATE else access
        for access in ledger.accesses
    ]
    write_statement(
        folder,
        replace(ledger, accesses=tuple(chosen)),
        delta=stored["delta"],
        artefact=folder / stored["artefact"]["path"],
        randomness=stored["randomness"],
        precision=stored["precision"],
        run=record,
    )
    close_run(record)


def _require_input(record: RunRecord, name: str, manifest: CropsManifest) -> None:
    """Checks that the crops of a fit are those that its run recorded, and so its lineage.

    Args:
        record: The run.
        name: Of the data module.
        manifest: Table that the data module read.

    Raises:
        PrivacyError: If they came in by no argument, or their table was changed in memory.
    """
    entry = record.inputs.get("data")
    if entry is None or CropsManifest.read(entry.path).crops != manifest.crops:
        raise PrivacyError(
            f"data: {name} read crops that are not those of data.init_args.crops, so their lineage "
            "is unknown and a statement would speak about others. Give their folder by that "
            "argument, and take the table as it stands there."
        )


def fit_parents(record: RunRecord) -> PrivacyLedger:
    """Whose data were used for the inputs of a fit, and what its configuration leaves open."""
    inputs = inputs_ledger(record)
    found = (*inputs.exclusions, *class_constants(record.config), *outside_code(record.config))
    return replace(inputs, exclusions=tuple(dict.fromkeys(found)))


def class_constants(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a statement says of class weights and prior, as an exclusion.

    Args:
        config: Configuration of the fit.

    Returns:
        One sentence, or none where both are left alone.
    """
    model = (config.get("model") or {}).get("init_args") or {}
    weight, prior = (model.get(name) for name in CLASS_SETTINGS)
    given = [] if weight in (None, 1.0) else [f"malignant_weight {weight:g}"]
    given += [] if prior is None else [f"prior {prior:g}"]
    if not given:
        return ()
    return (
        f"{' and '.join(given)}: constants of the configuration of a fit, and no count of labels "
        "by it. Where they were chosen by counting labels of patients, that look is not covered.",
    )


def _selected(
    record: RunRecord,
    trainer: "Trainer",
    manifest: CropsManifest,
    split: Split,
    released: str,
    plan: SelectionPlan | None,
) -> list[Access]:
    """Uses of splits by whose metrics callbacks, schedules or a selection chose."""
    module, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    declared: frozenset[str] = getattr(module, "training_metrics", frozenset())
    looked: dict[Split, str] = {}
    found = monitors_of(trainer)
    named = {monitor.name for monitor in found}
    found += [one for one in unseen_monitors(record.config) if one.name not in named]
    if monitors := of_other_splits(found, declared):
        evaluated = getattr(data, "evaluate_split", None)
        splits = monitored_splits(manifest, train_split=split, evaluate_split=evaluated)
        note = f"{', '.join(map(str, monitors))} looked at metrics of these data."
        looked = dict.fromkeys(splits, note)
    if plan is not None and plan.score_split is not None:
        looked[plan.score_split] = "The best of several fits was chosen by its AUROC on these data."
    return [
        Access.of_training(
            stage_name(type(module).__name__, released),
            manifest,
            used,
            released=released,
            note=note,
            use="selection",
        )
        for used, note in looked.items()
    ]


def randomness(unit: Unit, *, seeded: bool) -> dict[str, str]:
    """Where draws and noise of a private fit came from.

    Args:
        unit: What was drawn.
        seeded: Whether ``insecure_seed`` was given.
    """
    return {
        "draws and noise": ("a fixed seed, reproducible, INSECURE" if seeded else FRESH_KEY),
        "sampling": f"Poisson over units ({unit}), by the sampler that ran",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What a fit was configured with, as far as its statement must agree.

    Names are those of arguments of our models and data modules; a test compares them with the
    signatures, so that a renamed argument cannot switch a check off.

    Attributes:
        model: Values of :data:`MODEL_SETTINGS`.
        data: Values of :data:`DATA_SETTINGS`.
        missing: Settings that the classes of this fit do not have.
        max_steps: Of the trainer.
        plan: How the fit takes part in a selection; ``None`` if it does not.
        takes_public: Whether the first weights of the model came from the hub or a package.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    missing: tuple[str, ...]
    max_steps: int | None
    plan: Mapping[str, Any] | None
    takes_public: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Reads them from the configuration in ``run.json``."""
        model, data = (
            (config.get(part) or {}).get("init_args") or {} for part in ("model", "data")
        )
        wanted = [(model, name) for name in MODEL_SETTINGS]
        wanted += [(data, name) for name in DATA_SETTINGS]
        selection = config.get("selection") or {}
        return cls(
            model={name: model.get(name) for name in MODEL_SETTINGS},
            data={name: data.get(name) for name in DATA_SETTINGS},
            missing=tuple(name for given, name in wanted if name not in given),
            max_steps=(config.get("trainer") or {}).get("max_steps"),
            plan={name: selection.get(name) for name in PLANNED} if selection else None,
            takes_public=model.get(START_SETTING) in PUBLIC_STARTS,
        )


def check_fit(evidence: Evidence) -> bool:
    """Compares the statement of a fit with patients, account and configuration.

    Returns:
        Whether the released checkpoint holds an account.
    """
    settings = FitSettings.of(evidence.record.config)
    evidence.check_cohort("data", settings.data["train_split"] or "train")
    _check_selection(evidence)
    return _check_account(evidence, settings)


FIT = StageCheck(check=check_fit, parents=fit_parents)


def _check_selection(evidence: Evidence) -> None:
    """Patients by whom callbacks, or a selection among fits, chose, as configured."""
    used = {access.cohort.split for access in evidence.own if access.use == "selection"}
    with suppress(KeyError, ValueError):  # which the visit to the crops has found
        manifest = CropsManifest.read(evidence.inputs["data"])
        used |= configured_splits(evidence.record.config, manifest)
    for split in get_args(Split):
        if split in used:
            evidence.check_cohort("data", split, "selection")


def _check_account(evidence: Evidence, settings: FitSettings) -> bool:
    """The steps that ran, from the accountant in the released checkpoint.

    Returns:
        Whether there was an accountant.
    """
    checkpoint = evidence.record.folder / (evidence.stored["artefact"] or {}).get("path", "")
    if not checkpoint.is_file():
        evidence.findings.add(evidence.path, "speaks about no released checkpoint", RUN_AGAIN)
        return False
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        history = content.get("accountant", {}).get("history", [])
    except Exception as error:  # torch raises errors of many types
        what = f"is no checkpoint of a fit ({type(error).__name__})"
        evidence.findings.add(checkpoint, what, RESTORE)
        return False
    executed = [list(mechanism) for mechanism in history]
    evidence.compare_account(checkpoint, executed)
    _check_settings(evidence, settings, checkpoint, executed)
    return bool(executed)


def _check_settings(
    evidence: Evidence,
    settings: FitSettings,
    checkpoint: Path,
    executed: Sequence[Sequence[float]],
) -> None:
    """Unit, rate, clipping norm, delta, steps and seeds, as configured."""
    path, findings, own = evidence.path, evidence.findings, evidence.own
    model, data = settings.model, settings.data
    if settings.takes_public:
        _require_public(evidence)
    if not executed:
        return
    if settings.missing:
        findings.notes.append(
            f"{path}: its model and data have no setting {', '.join(settings.missing)}, so these "
            "were not compared."
        )
    steps = sum(int(mechanism[-1]) for mechanism in executed)
    if settings.max_steps is None or steps > settings.max_steps:
        what = f"ran {steps} steps, but trainer.max_steps is {settings.max_steps}"
        findings.add(checkpoint, what, RUN_AGAIN)
    said = [("delta", evidence.stored["delta"], model["delta"])]
    for access in own:
        if access.use == "training":
            findings.compare(path, "selection", planned(access.mechanism), settings.plan)
        for mechanism in fits_of(access.mechanism):
            said += [
                ("unit", access.unit, data["unit"]),
                ("sampling_rate", mechanism.sampling_rate, data["rate"]),
                ("clipping_norm", mechanism.clipping_norm, model["clipping_norm"]),
            ]
    for name, recorded, configured in said:
        if configured is not None:
            findings.compare(path, f"configured {name}", recorded, configured)
    for access in own:  # declared constants, which a statement is in terms of
        declared = {"public_size": access.public_size}
        if access.unit == "crop":
            declared["crops_per_patient"] = access.crops_per_patient
        for name, recorded in declared.items():
            findings.compare(path, f"configured {name}", recorded, data[name])
    seeded = data["insecure_seed"] is not None
    for access in own:
        if access.use == "training" and (seeded or access.void == SEEDED):
            findings.compare(path, "void", access.void, SEEDED if seeded else "")
    drawn = randomness(data["unit"] or "patient", seeded=seeded)
    findings.compare(path, "randomness", evidence.stored["randomness"], drawn)


def _require_public(evidence: Evidence) -> None:
    """Public weights are named as such, or leave patients without a guarantee."""
    named = any(
        one.source.startswith((HUB_SOURCE, PACKAGE_SOURCE)) for one in evidence.ledger.public
    )
    if not named and not any(access.is_unknown for access in evidence.ledger.accesses):
        what = "does not name the public weights that were configured"
        evidence.findings.add(evidence.path, what, RESTORE)
