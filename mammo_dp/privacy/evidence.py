# SPDX-License-Identifier: Apache-2.0
"""Whether a statement agrees with its evidence: account, configuration, crops and parents.

The account is read from the released checkpoint, where training left it step by step, or from the
rounds of Private Evolution; the cohort from the crops that lie there now; the lineage from the
statements of the parents.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch

from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest, Split
from mammo_dp.privacy.cohorts import Cohort
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.account import ACCOUNT, executed, origin
from mammo_dp.privacy.findings import RESTORE, Findings, shown
from mammo_dp.privacy.ledger import Access, PrivacyLedger, Use
from mammo_dp.privacy.monitors import configured_splits
from mammo_dp.privacy.parents import collect_parents
from mammo_dp.privacy.public_weights import HUB_SOURCE
from mammo_dp.privacy.release import (
    EVOLVE,
    RELABEL,
    SEEDED,
    data_ledger,
    loose_delta,
    randomness,
    votes_randomness,
)
from mammo_dp.privacy.selection import PLANNED, fits_of, planned
from mammo_dp.privacy.statement import (
    EVIDENCE_NAME,
    FILE_NAME,
    ledger_of,
    read_evidence,
    run_facts,
)
from mammo_dp.runs import RunRecord

_AGAIN = "The statement does not hold; run the stage again"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A statement and what it is held against.

    Attributes:
        stored: Content of ``privacy.json``.
        record: The run that wrote it.
        inputs: Where its inputs lie now, by role; those that are gone are absent.
        findings: Takes what does not fit.
    """

    stored: Mapping[str, Any]
    record: RunRecord
    inputs: Mapping[str, Path]
    findings: Findings

    @property
    def path(self) -> Path:
        """The statement's file."""
        return self.record.folder / FILE_NAME

    @cached_property
    def evidence(self) -> Mapping[str, Any] | None:
        """What stays private beside the statement; None if it cannot be relied on."""
        return read_evidence(self.record.folder)

    @cached_property
    def ledger(self) -> PrivacyLedger:
        """The accesses that the statement lists."""
        return ledger_of(self.stored, self.evidence)

    @property
    def own(self) -> list[Access]:
        """Accesses of the run itself: those that released the artefact."""
        artefact = self.stored["artefact"]
        return [
            access
            for access in self.ledger.accesses
            if artefact and access.released == artefact["sha256"]
        ]

    def check(self) -> None:
        """Compares all that there is."""
        where = self.record.folder / EVIDENCE_NAME
        if (evidence := self.evidence) is None:
            what = "is missing, altered, or not sealed under the key here"
            self.findings.add(where, what, RESTORE)
        else:
            self.findings.compare(where, "run", evidence["run"], run_facts(self.record))
        private = any(access.mechanism is not None for access in self.own)
        if self.record.command == "fit":
            self._check_cohort("data", self._config("data").get("train_split", "train"))
            self._check_selection()
            private |= self._check_account()
        if self.record.command == EVOLVE:
            self._check_cohort("crops", self.record.config.get("split", "train"))
            private |= self._check_rounds()
        follows = self._check_lineage()
        if follows is not None and not private:
            loose = loose_delta(follows)
            self.findings.compare(self.path, "delta", self.stored["delta"], loose)

    def _check_selection(self) -> None:
        """Patients by whom callbacks, or a selection among fits, chose, as configured."""
        used = {access.cohort.split for access in self.own if access.use == "selection"}
        with suppress(KeyError, ValueError):  # which the visit to the crops has found
            manifest = CropsManifest.read(self.inputs["data"])
            used |= configured_splits(self.record.config, manifest)
        for split in get_args(Split):
            if split in used:
                self._check_cohort("data", split, "selection")

    def _check_cohort(self, role: str, split: Split, use: Use = "training") -> None:
        """The patients of a split that was used, as they stand in ``crops.csv`` now."""
        try:
            there = Cohort.of_manifest(CropsManifest.read(self.inputs[role]), split)
        except (KeyError, ValueError):
            return  # missing or malformed, which the visit to the crops has found
        own = {
            access.cohort: None
            for access in self.own
            if access.use == use and (use == "training" or access.cohort.split == split)
        }
        if not own and not there.is_empty:
            what = f"lists no access to {there.name}, which {self.record.folder} used for {use}"
            self.findings.add(self.path, what, _AGAIN)
        where = self.inputs[role] / CROPS
        for recorded in own:
            self.findings.checked["cohorts"] += 1
            self._compare_cohorts(where, recorded, there)

    def _compare_cohorts(self, where: Path, recorded: Cohort, there: Cohort) -> None:
        before, now = set(recorded.patients or ()), set(there.patients or ())
        if recorded.key_id != there.key_id:
            what = (
                f"patients of {recorded.name} are hashed under key {recorded.key_id}; the cohort "
                f"key here is {there.key_id}, so they cannot be compared"
            )
            self.findings.add(self.path, what, "Use the key of the statement")
            return
        if before != now:
            what = (
                f"split {there.split!r} holds other patients than {self.path} says: "
                f"{len(before)} recorded, {len(now)} there, {len(before & now)} of them the same"
            )
            self.findings.add(where, what, RESTORE)
        if recorded.crops and there.private is not None:  # where it is public
            counts = there.private.crops_of_patients
            there = replace(there, crops=sum(crops * patients for crops, patients in counts))
        one, other = (
            {
                "cohort": cohort.as_json(with_patients=False),
                "evidence": cohort.private and cohort.private.as_json(),
            }
            for cohort in (recorded, there)
        )
        if recorded.private is None:  # which has been found
            del one["evidence"], other["evidence"]
        self.findings.compare(where, recorded.name, one, other)

    def _check_account(self) -> bool:
        """The steps that ran, from the accountant in the released checkpoint.

        Returns:
            Whether there was an accountant.
        """
        checkpoint = self.record.folder / (self.stored["artefact"] or {}).get("path", "")
        if not checkpoint.is_file():
            self.findings.add(self.path, "speaks about no released checkpoint", _AGAIN)
            return False
        try:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
            history = content.get("accountant", {}).get("history", [])
        except Exception as error:  # torch raises errors of many types
            what = f"is no checkpoint of a fit ({type(error).__name__})"
            self.findings.add(checkpoint, what, RESTORE)
            return False
        executed = [list(mechanism) for mechanism in history]
        self._compare_account(checkpoint, executed)
        self._check_config(checkpoint, executed)
        return bool(executed)

    def _compare_account(self, where: Path, executed: Sequence[Sequence[float]]) -> None:
        self.findings.checked["accounts"] += 1
        recorded = [
            [mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps]
            for access in self.own
            for mechanism in fits_of(access.mechanism)
        ]
        if self.own and recorded != executed:
            what = (
                f"its account holds (noise multiplier, sampling rate, steps) {shown(executed)}, "
                f"but {self.path} says {shown(recorded)}"
            )
            self.findings.add(where, what, _AGAIN)

    def _check_rounds(self) -> bool:
        """The rounds that patients voted in, from the account, and the crops they led to.

        Returns:
            Whether there was an account.
        """
        folder, config = self.record.folder, self.record.config
        where = folder / ACCOUNT
        try:
            done = executed(folder)
            made_by = [origin(folder)]
        except PrivacyError as error:
            self.findings.add(where, f"the rounds cannot be read ({error})", RESTORE)
            return False
        if done is None:
            self.findings.add(where, "is missing", RESTORE)
            return False
        self._compare_account(where, [[done.noise_multiplier, done.sampling_rate, done.steps]])
        if done.steps > (planned := config.get("rounds", 0)):
            what = f"books {done.steps} rounds, but rounds is {planned}"
            self.findings.add(where, what, _AGAIN)
        delta = self.stored["delta"]
        self.findings.compare(self.path, "configured delta", delta, config.get("delta"))
        for access in self.own:
            size = config.get("public_size")
            self.findings.compare(self.path, "configured public_size", access.public_size, size)
        self.findings.compare(
            self.path, "randomness", self.stored["randomness"], votes_randomness()
        )
        try:
            origins = sorted({crop.origin for crop in CropsManifest.read(folder).crops})
        except ValueError:
            return True  # malformed, which the visit to the crops has found
        self.findings.compare(folder / CROPS, "origins", made_by, origins)
        return True

    def _check_config(self, checkpoint: Path, executed: Sequence[Sequence[float]]) -> None:
        """Unit, rate, clipping norm, delta, steps and seeds, as configured."""
        model, data = self._config("model"), self._config("data")
        if model.get("pretrained") and not model.get("weights"):
            self._require_hub()
        if not executed:
            return
        steps = sum(int(mechanism[-1]) for mechanism in executed)
        allowed = self.record.config.get("trainer", {}).get("max_steps")
        if allowed is None or steps > allowed:
            what = f"ran {steps} steps, but trainer.max_steps is {allowed}"
            self.findings.add(checkpoint, what, _AGAIN)
        said = [("delta", self.stored["delta"], model.get("delta"))]
        configured = self.record.config.get("selection") or {}
        plan = {name: configured.get(name) for name in PLANNED} if configured else None
        for access in self.own:
            if access.use == "training":
                self.findings.compare(self.path, "selection", planned(access.mechanism), plan)
            for mechanism in fits_of(access.mechanism):
                said += [
                    ("unit", access.unit, data.get("unit")),
                    ("sampling_rate", mechanism.sampling_rate, data.get("rate")),
                    ("clipping_norm", mechanism.clipping_norm, model.get("clipping_norm")),
                ]
        for name, recorded, configured in said:
            if configured is not None:
                self.findings.compare(self.path, f"configured {name}", recorded, configured)
        for access in self.own:  # declared constants, which a statement is in terms of
            declared = {"public_size": access.public_size}
            if access.unit == "crop":
                declared["crops_per_patient"] = access.crops_per_patient
            for name, recorded in declared.items():
                self.findings.compare(self.path, f"configured {name}", recorded, data.get(name))
        seeded = data.get("insecure_seed") is not None
        for access in self.own:
            self.findings.compare(self.path, "void", access.void, SEEDED if seeded else "")
        drawn = randomness(data.get("unit", "patient"), seeded=seeded)
        self.findings.compare(self.path, "randomness", self.stored["randomness"], drawn)

    def _check_lineage(self) -> PrivacyLedger | None:
        """The accesses of the parents that lie there now, and the run's own.

        Returns:
            The ledger that follows, if all parents are there.
        """
        if {"root", *self.inputs} < {"root", *self.record.inputs}:
            return None  # a parent is gone, which has been found
        try:
            parents = self._parents()
        except (OSError, ValueError) as error:
            what = f"its lineage cannot be collected ({error})"
            self.findings.add(self.path, what, "Restore the parent")
            return None
        follows, recorded = parents.plus(*self.own), self.ledger
        for access in recorded.accesses:
            if access not in follows.accesses:
                what = f"lists {_named(access)}, which no parent does"
                self.findings.add(self.path, what, RESTORE)
        for access in follows.accesses:
            if access not in recorded.accesses:
                what = f"leaves out {_named(access)}, which a parent lists"
                self.findings.add(self.path, what, RESTORE)
        one, other = list(recorded.exclusions), list(follows.exclusions)
        self.findings.compare(self.path, "lineage_exclusions", one, other)
        from_hub = [one for one in recorded.public if one.source.startswith(HUB_SOURCE)]
        self.findings.compare(
            self.path,
            "public_data",
            [one.as_json() for one in recorded.public],
            [one.as_json() for one in dict.fromkeys((*follows.public, *from_hub))],
        )
        return follows

    def _parents(self) -> PrivacyLedger:
        if self.record.command == "fit":
            return collect_parents(self.inputs.values())
        located = {
            role: replace(self.record.inputs[role], path=str(path))
            for role, path in self.inputs.items()
        }
        manifest = CropsManifest.read(self.record.folder)
        if "checkpoint" in located and self.record.command not in (EVOLVE, RELABEL):
            origins = sorted({crop.origin for crop in manifest.crops})
            made_by = [f"gan:{located['checkpoint'].sha256}"]
            self.findings.compare(manifest.folder / CROPS, "origins", made_by, origins)
        return data_ledger(replace(self.record, inputs=located), manifest)

    def _config(self, part: str) -> Mapping[str, Any]:
        """Arguments of the model or the data module."""
        found: Mapping[str, Any] = self.record.config.get(part, {}).get("init_args", {})
        return found

    def _require_hub(self) -> None:
        """Weights of the hub are named as public data, or leave patients without a guarantee."""
        named = any(one.source.startswith(HUB_SOURCE) for one in self.ledger.public)
        if not named and not any(access.is_unknown for access in self.ledger.accesses):
            what = "does not name the weights of the hub, which were configured"
            self.findings.add(self.path, what, RESTORE)


def _named(access: Access) -> str:
    return f"the access of {access.stage} to {access.cohort.name}"
