# SPDX-License-Identifier: Apache-2.0
"""What a finished stage owes its readers: the statement of a fit, of generated or evolved crops.

The statement is derived, not typed: parents come from the inputs in ``run.json``, patients from the
manifest that was read, mechanisms from the steps that were executed. ``verify`` derives it again
with the same functions.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest, Split, Unit
from mammo_dp.privacy.cohorts import Cohort
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.account import executed
from mammo_dp.privacy.ledger import Access, PrivacyLedger
from mammo_dp.privacy.monitors import monitored_splits, monitors_of, of_other_splits
from mammo_dp.privacy.parents import collect_parents
from mammo_dp.privacy.preparation import preparation_exclusions
from mammo_dp.privacy.public_weights import HUB, provenance_of_hub
from mammo_dp.privacy.selection import Noisy, SelectionPlan
from mammo_dp.privacy.statement import write_statement
from mammo_dp.runs import RunRecord, file_sha256

if TYPE_CHECKING:  # lightning takes seconds to import; reading statements does without
    from lightning.pytorch import Trainer

PHANTOMS = (
    "Phantom crops hold no patient, but their looks (brightness, contrast, texture, spicules) were "
    "set by hand beside published CBIS-DDSM training crops. For patients of that data set this is "
    "not counted."
)
SEEDED = "with draws and noise of a fixed seed, for tests: whoever knows it can remove the noise"
CHOSEN = (
    "This covers the release of one fit, the best. The others, their scores and how many there "
    "were stay private."
)
EVOLVE = "evolve"  # the command whose crops were chosen by patients' votes
RELABEL = "relabel"  # the command whose labels are a classifier's
MIX = "mix"  # of a benchmark: patients' crops and synthetic ones in one folder
_FRESH = "the operating system's entropy, a fresh 256-bit key at each start, and AES counter mode"
_WITHOUT_DP = 1e-4  # delta of a stage that promised none; its parents may have promised something


def write_fit_statement(
    record: RunRecord, trainer: "Trainer", released: Path, plan: SelectionPlan | None = None
) -> None:
    """Writes the statement of a fit beside its weights.

    Args:
        record: The run.
        trainer: After ``fit``, with module and data module.
        released: File of the weights, below the run folder.
        plan: How the fit takes part in a selection, if it does; then the statement is that of the
            one fit that is chosen.

    Raises:
        PrivacyError: If it is unknown whose data were used.
    """
    from mammo_dp.privacy.training import DPTraining

    module = trainer.lightning_module
    data = trainer.datamodule  # type: ignore[attr-defined]
    manifest, split = getattr(data, "manifest", None), getattr(data, "train_split", None)
    if not isinstance(manifest, CropsManifest) or split is None:
        raise PrivacyError(
            f"data: {type(data).__name__} has no crops manifest, so nobody knows whose data were "
            "used. Use mammo_dp.CropsDataModule or mammo_dp.DPCropsDataModule."
        )
    private = module if isinstance(module, DPTraining) else None
    sampling = private.sampling if private is not None else None
    unit: Unit = sampling.unit if sampling is not None else "patient"
    inputs = collect_parents(entry.path for entry in record.inputs.values())
    mechanisms: Sequence[Noisy | None] = (None,) if private is None else private.mechanisms
    if plan is not None and private is not None:
        mechanisms = (plan.of(private.mechanisms),)
    ledger = inputs.joined([hub_ledger(module)]).plus(
        *(
            Access.of_training(
                f"{type(module).__name__} ({record.folder.name})",
                manifest,
                split,
                unit=unit,
                mechanism=mechanism,
                released=file_sha256(released),
                public_size=None if sampling is None else sampling.public_size,
                crops_per_patient=data.crops_per_patient if unit == "crop" else None,
                void=SEEDED if _is_seeded(data) else "",
                note="" if plan is None else CHOSEN,
            )
            for mechanism in mechanisms
        ),
        *_selected(record, trainer, manifest, split, file_sha256(released), plan),
    )
    write_statement(
        record.folder,
        ledger,
        delta=private.budget.delta if private is not None else loose_delta(ledger),
        artefact=released,
        randomness=(
            randomness(data.sampling.unit, seeded=_is_seeded(data)) if private is not None else None
        ),
        precision=str(trainer.precision),
        run=record,
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
    if monitors := of_other_splits(monitors_of(trainer), declared):
        evaluated = getattr(data, "evaluate_split", None)
        splits = monitored_splits(manifest, train_split=split, evaluate_split=evaluated)
        note = f"{', '.join(map(str, monitors))} looked at metrics of these data."
        looked = dict.fromkeys(splits, note)
    if plan is not None and plan.score_split is not None:
        looked[plan.score_split] = "The best of several fits was chosen by its AUROC on these data."
    return [
        Access.of_training(
            f"{type(module).__name__} ({record.folder.name})",
            manifest,
            used,
            released=released,
            note=note,
            use="selection",
        )
        for used, note in looked.items()
    ]


def write_data_statement(record: RunRecord) -> None:
    """Writes the statement of a folder of crops, if no patient is in it.

    A folder of patients' crops releases nothing and states nothing.

    Args:
        record: The run that filled the folder.

    Raises:
        PrivacyError: If the provenance of imported crops is malformed.
    """
    manifest = CropsManifest.read(record.folder)
    if any(not crop.is_synthetic for crop in manifest.crops):
        return
    ledger, released = data_ledger(record, manifest), record.folder / CROPS
    if record.command == EVOLVE:
        _write_evolution_statement(record, ledger, released)
        return
    write_statement(record.folder, ledger, delta=loose_delta(ledger), artefact=released, run=record)


def _write_evolution_statement(record: RunRecord, parents: PrivacyLedger, released: Path) -> None:
    """Adds the votes of the patients, as many rounds of them as were booked."""
    voted = Access.of_training(
        f"Private Evolution ({record.folder.name})",
        CropsManifest.read(record.inputs["crops"].path),
        record.config["split"],
        mechanism=executed(record.folder),
        released=file_sha256(released),
        note="The noisy votes of each round, in rounds/, are covered like the crops.",
        public_size=record.config["public_size"],
    )
    write_statement(
        record.folder,
        parents.plus(voted),
        delta=record.config["delta"],
        artefact=released,
        randomness=votes_randomness(),
        run=record,
    )


def data_ledger(record: RunRecord, manifest: CropsManifest) -> PrivacyLedger:
    """Whose data stands behind a folder of synthetic crops, but for the votes on evolved ones.

    Args:
        record: The run that filled the folder.
        manifest: Its crops.

    Raises:
        PrivacyError: If the generator's statement is missing or does not fit, or the provenance of
            imported crops is malformed.
    """
    if record.command == EVOLVE:
        parents = collect_parents(entry.path for entry in record.inputs.values())
        if "checkpoint" in record.inputs:
            return parents
        return replace(parents, exclusions=(*parents.exclusions, PHANTOMS))
    if record.command == RELABEL:  # whose data made the crops, and whose data labelled them
        return collect_parents(entry.path for entry in record.inputs.values())
    if record.command == MIX:  # patients' own crops stand in the manifest; a fit books them
        parents = collect_parents([record.inputs["synthetic"].path])
        left_open = preparation_exclusions(record.inputs["crops"].path)
        return replace(parents, exclusions=(*parents.exclusions, *left_open))
    if "checkpoint" in record.inputs:
        return collect_parents([record.inputs["checkpoint"].path])
    if any(crop.origin.startswith("synthetic:") for crop in manifest.crops):
        return PrivacyLedger(accesses=(_imported(record, manifest),))
    return PrivacyLedger(exclusions=(PHANTOMS,))


def _imported(record: RunRecord, manifest: CropsManifest) -> Access:
    """Whose data the generator of an imported set saw, as far as its provenance says."""
    origin = manifest.crops[0].origin
    if "provenance" not in record.inputs:
        return Access.of_unknown(
            f"The unknown generator of {origin}", "", note="Imported without provenance."
        )
    path = record.inputs["provenance"].path
    try:
        said = yaml.safe_load(Path(path).read_text())
        generator, dataset = said["generator"], said["trained_on"]
        if not isinstance(dataset, str) or not dataset.strip():
            raise TypeError(f"trained_on is {dataset!r}")
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise PrivacyError(
            f"{path}: is no provenance ({error!r}). Write `generator: NAME` and `trained_on: "
            "DATASET` (the origin that crops of that data set have, such as cbis-ddsm; several "
            "are joined by +)."
        ) from error
    return Access(
        stage=f"{generator}, the generator of {origin},",
        cohort=Cohort.unknown(dataset),
        note="Imported; privacy of the generator cannot be verified and counts as none.",
    )


def loose_delta(ledger: PrivacyLedger) -> float:
    """A delta below 1 / units of every cohort in the lineage."""
    counts = [access.units or 0 for access in ledger.accesses]
    return min([_WITHOUT_DP, *(0.1 / count for count in counts if count)])


def hub_ledger(module: Any) -> PrivacyLedger:  # noqa: ANN401  any Lightning module
    """Whose data are behind weights that a model fetched from the hub; empty if it fetched none."""
    start = getattr(module, "initial_weights", None)
    if start is None or not start.path.startswith(HUB):
        return PrivacyLedger()
    if (public := provenance_of_hub(start.path, start.sha256, start.licence)) is not None:
        return PrivacyLedger(public=(public,))
    unknown = Access.of_unknown(
        f"the training of {start.path}",
        "",
        released=start.sha256,
        note="Its tag does not say on which public data.",
    )
    return PrivacyLedger(accesses=(unknown,))


def _is_seeded(data: Any) -> bool:  # noqa: ANN401  any data module
    return getattr(data, "insecure_seed", None) is not None


def randomness(unit: Unit, *, seeded: bool) -> dict[str, str]:
    """Where draws and noise of a private fit came from.

    Args:
        unit: What was drawn.
        seeded: Whether ``insecure_seed`` was given.
    """
    return {
        "draws and noise": ("a fixed seed, reproducible, INSECURE" if seeded else _FRESH),
        "sampling": f"Poisson over units ({unit}), by the sampler that ran",
    }


def votes_randomness() -> dict[str, str]:
    """Where the noise of Private Evolution came from."""
    return {"noise": _FRESH, "sampling": "none: every patient votes in every round"}
