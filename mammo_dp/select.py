# SPDX-License-Identifier: Apache-2.0
"""``privacy select``: the best of a random number of private fits, under one account.

What is drawn, how many fits there are and how they score stays below ``candidates/``, private.
``released/`` is the run folder of the fit that won, with a statement about the whole selection.
"""

import contextlib
import io
import itertools
import json
import math
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.rule import Rule

from classifier.evaluate import auroc
from classifier.predictions import FILE_NAME as PREDICTIONS
from classifier.predictions import read_predictions
from data_prep.manifest import CropsManifest, Split
from mammo_dp.crop_rule import FILE_NAME as CROP_RULE
from mammo_dp.privacy.accounting.account import Law, Mechanism, compose
from mammo_dp.privacy.accounting.budget import PrivacyBudget, calibrate
from mammo_dp.privacy.accounting.selection import SelectionPlan, concordance
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.document import EVIDENCE_NAME, TEXT_NAME, read_statement
from mammo_dp.privacy.statement.document import FILE_NAME as STATEMENT
from mammo_dp.privacy.statement.seals import authentication_code, seal_doubt, with_seal
from mammo_dp.privacy.training.fit_statement import (
    CANDIDATE,
    PUBLIC_STARTS,
    require_candidate,
    state_chosen,
)
from mammo_dp.privacy.training.sampling import NOISE, draw
from mammo_dp.runs import FILE_NAME as RUN
from mammo_dp.runs import (
    RELEASED,
    RunRecord,
    file_sha256,
    read_run,
    run_folder,
    write_text_atomically,
)
from mammo_dp.training_cli import CONFIG, train

CANDIDATES, CHOSEN, DRAWS = "candidates", "released", "draws.json"
_VARIABLE = ("model.init_args.", "data.init_args.augment")
# They change the account, or whose data stand behind the initial weights.
_FIXED = ("delta", "target_", "kappa", "weights", "backbone")
_DIVERGED = 1e18  # of a weight: squares overflow in single precision
_RELEASED = (
    RELEASED,
    *map(Path, (STATEMENT, TEXT_NAME, EVIDENCE_NAME, RUN, CONFIG, CROP_RULE)),
)  # of the run that was chosen
_TARGETS = ("epsilon", "advantage", "tpr", "fpr", "reconstruction")


def select(
    *,
    fit: str | list[str],
    crops: str,
    out: str,
    grid: dict[str, list[Any]],
    weights: str | None = None,
    mean: float = 10.0,
    law: Law = "logarithmic",
    score_noise_multiplier: float | None = None,
    score_split: Split | None = None,
    dry_run: bool = False,
) -> None:
    """Fits a private classifier a random number of times and releases the best, at a stated cost.

    Each fit takes settings from the grid at random and spends the budget of its configuration; the
    statement of the fit that is released holds what the choice adds. The others, their scores and
    their number stay below candidates/, private data. An interrupted selection resumes: nothing is
    drawn twice, and finished fits are left alone.

    Args:
        fit: YAML configuration of the private classifier, or several, later ones over earlier.
        crops: Folder of the crops.
        out: Folder of everything; released/ holds the run that was chosen.
        grid: Values of each setting that may differ, by its flag of fit without dashes, such as
            {model.init_args.score_noise: [0.3, 0.6, 1.2]}.
        weights: Weights that all fits start from.
        mean: Mean number of fits, at least 1.
        law: Law of their number: "logarithmic" costs least, "geometric" stops at a single fit less
            often.
        score_noise_multiplier: Scores fits on the training patients, with this noise relative to
            what one patient can change; it is accounted for.
        score_split: Scores fits by the AUROC on this split instead; its patients are left without
            a guarantee.
        dry_run: Prints the cost and the number of fits to expect, and stops.

    Raises:
        PrivacyError: For settings that have no account.
    """
    plan = SelectionPlan(
        law=law, mean=mean, score_noise_multiplier=score_noise_multiplier, score_split=score_split
    )
    words = _words([fit] if isinstance(fit, str) else fit, crops, weights)
    configs = [_configured(words, plan, setting) for setting in _settings(grid)]
    cost = _cost(plan, configs[0])
    manifest = CropsManifest.read(crops)
    for split in (configs[0]["data"]["init_args"]["train_split"], score_split):
        if split is not None:
            manifest.require_classes(split)
    console = Console()
    console.print(cost)
    if dry_run:
        return
    with run_folder(
        out,
        command="privacy select",
        config={"fit": configs[0], "grid": grid, "selection": asdict(plan)},
        inputs=_inputs(configs[0]),
    ) as record:
        chosen = record.folder / CHOSEN
        # What lies in released/ may have been taken: a second choice would be one more release.
        if not record.is_finished and not chosen.exists():
            name, draws = _draws(record, plan, len(configs))
            plan, scored = replace(plan, name=name), []
            for number, one in enumerate(draws, start=1):
                console.print(Rule(f"[{number}/{len(draws)}] a fit", align="left"))
                config = configs[one["setting"]] | {"selection": asdict(plan)}
                score, hashes = _score(record, plan, config, one)
                scored.append((score, one["tie"], one["name"], hashes))
            *_, best, hashes = max(scored)
            _copy(record.folder / CANDIDATES / best, chosen, hashes)
        _require_chosen(chosen)
        print(f"{chosen}: {read_statement(chosen)['summary']}")


def _configured(
    words: Sequence[str], plan: SelectionPlan, setting: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole configuration of a fit, defaults included; it is parsed, nothing runs.

    Files are read here, once: who edits one for the next experiment changes no fit of this one.
    """
    chosen = (
        (f"--{name}", value if isinstance(value, str) else json.dumps(value))
        for name, value in setting.items()
    )
    line = [*words, "--selection", json.dumps(asdict(plan)), *itertools.chain.from_iterable(chosen)]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            _train(["fit", *line, "--print_config"])
    except SystemExit as end:
        if end.code:
            raise
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config


def _inputs(config: Mapping[str, Any]) -> dict[str, Path]:
    """Crops and initial weights of every fit, by role."""
    inputs = {"data": Path(config["data"]["init_args"]["crops"])}
    weights = config["model"]["init_args"].get("weights")
    return inputs if weights in (None, *PUBLIC_STARTS) else inputs | {"weights": Path(weights)}


def _words(files: Sequence[str], crops: str, weights: str | None) -> list[str]:
    words = [word for file in files for word in ("--config", file)]
    words += ["--data.init_args.crops", crops]
    return [*words, "--model.init_args.weights", weights] if weights else words


def _settings(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values of a grid.

    Raises:
        PrivacyError: For a setting that changes account or lineage, and for nothing to choose.
    """
    for name in grid:
        last = name.removeprefix(_VARIABLE[0])
        if not name.startswith(_VARIABLE) or last.startswith(_FIXED):
            raise PrivacyError(
                f"grid: {name} changes what a fit spends, or whose data stand behind it, and all "
                f"fits of a selection have one account. Vary {_VARIABLE[0]}* such as score_noise, "
                f"learning_rate, clipping_norm or views, or {_VARIABLE[1]}."
            )
    if not all(isinstance(values, list) and values for values in grid.values()):
        raise PrivacyError("grid: a setting without values. Give each a list.")
    settings = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    if len(settings) < 2:
        raise PrivacyError("grid: leaves nothing to choose. Give several values of a setting.")
    return settings


def _cost(plan: SelectionPlan, config: Mapping[str, Any]) -> str:
    """What the selection will cost and how many fits it makes, in sentences."""
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    steps, rate = config["trainer"]["max_steps"], data.get("rate")
    is_private = {"delta", "kappa", *(f"target_{name}" for name in _TARGETS)} <= {*model}
    if rate is None or not is_private or steps is None or steps < 1:
        raise PrivacyError(
            "fit: is no private fit. Choose among fits of mammo_dp.DPCropClassifier on "
            "mammo_dp.DPCropsDataModule, with trainer.max_steps."
        )
    plan.refuse_data(
        unit=data["unit"], train_split=data["train_split"], public_size=data.get("public_size")
    )
    budget = _budget(config)
    one = _mechanism(config)
    alone, total = compose([one]), compose([plan.of([one])])
    score = (
        f"the AUROC of split {plan.score_split}, whose patients are left without a guarantee"
        if plan.score_split
        else f"the training patients, with noise multiplier {plan.score_noise_multiplier:g}"
    )
    return (
        f"One fit: epsilon = {alone.epsilon(budget.delta):.4g} at delta = {budget.delta:g}, by "
        f"{alone.source}. The best of a random number of them, {plan.law} law, mean "
        f"{plan.mean:g}, scored by {score}: epsilon = {total.epsilon(budget.delta):.4g}, by "
        f"{total.source}. Half of the selections make at most {plan.quantile(0.5)} fits, 95 % "
        f"at most {plan.quantile(0.95)}."
    )


def _budget(config: Mapping[str, Any]) -> PrivacyBudget:
    """What each fit may spend."""
    model = config["model"]["init_args"]
    targets = {name: model[f"target_{name}"] for name in _TARGETS}
    return PrivacyBudget(delta=model["delta"], kappa=model["kappa"], **targets)


def _mechanism(config: Mapping[str, Any]) -> Mechanism:
    """What each fit executes."""
    steps, rate = config["trainer"]["max_steps"], config["data"]["init_args"]["rate"]
    return Mechanism(
        noise_multiplier=calibrate(_budget(config), sampling_rate=rate, steps=steps),
        sampling_rate=rate,
        steps=steps,
        clipping_norm=config["model"]["init_args"]["clipping_norm"],
    )


def _draws(
    record: RunRecord, plan: SelectionPlan, settings: int
) -> tuple[str, list[dict[str, Any]]]:
    """How many fits, of which settings: drawn once, from the operating system's entropy.

    The selection has a name, which is in the configuration of its fits: those of another selection
    are none of it. Each fit has a name that does not tell its place, and a number that decides
    between equal scores.
    """

    def fresh() -> dict[str, Any]:
        return {
            "selected_by": secrets.token_hex(16),
            "fits": [
                {
                    "name": secrets.token_hex(6),
                    "setting": secrets.randbelow(settings),
                    "tie": secrets.token_hex(16),
                }
                for _ in range(plan.draw())
            ],
        }

    folder = record.folder / CANDIDATES
    others = [path for path in folder.glob("*") if not path.name.startswith(DRAWS)]
    if others and not (folder / DRAWS).is_file():
        raise PrivacyError(
            f"{folder / DRAWS}: is missing, and {len(others)} files or folders of its fits are "
            "here. To draw their number again would be a second selection. Restore it, or start "
            "anew in another folder; what was spent here comes on top."
        )
    found = _once(record, DRAWS, fresh)
    return str(found["selected_by"]), list(found["fits"])


def _score(
    record: RunRecord, plan: SelectionPlan, config: Mapping[str, Any], one: Mapping[str, Any]
) -> tuple[float, tuple[str, ...]]:
    """Score of one fit, and hashes of its weights and statement; made where it is not there."""
    folder = record.folder / CANDIDATES / one["name"]

    def fresh() -> dict[str, Any]:
        declared = folder.with_suffix(".yaml")
        write_text_atomically(declared, yaml.safe_dump(dict(config), sort_keys=False))
        _train(["fit", "--config", str(declared), "--run_dir", str(folder)])
        _require_declared(record, folder, config)
        hashes = require_candidate(folder, plan.of([_mechanism(config)]))
        score = None
        if _has_converged(folder / RELEASED):
            split = plan.score_split or config["data"]["init_args"]["train_split"]
            # The same again after a kill, and to nobody without the cohort key: a score that was
            # deleted is not measured with other noise.
            key = authentication_code({"selection": plan.name, "tie": one["tie"], "fit": hashes})
            score = _measured(record, folder, plan, split, int(key, 16))
        return {"score": score, "hashes": hashes}

    found = _once(record, f"{one['name']}.json", fresh)
    score = found["score"]
    return -math.inf if score is None else float(score), tuple(found["hashes"])


def _require_declared(
    record: RunRecord, folder: Path, config: Mapping[str, Any] | None = None
) -> None:
    """Checks that a run read what this selection declared, by the configuration that it declared.

    Args:
        record: Of the selection.
        folder: Of a fit, or of its test.
        config: Of the fit.

    Raises:
        PrivacyError: If it did not: then the account is not that of the choice.
    """
    done = read_run(folder)
    others = [
        role
        for role, entry in done.inputs.items()
        if role != "checkpoint"
        and (role not in record.inputs or entry.sha256 != record.inputs[role].sha256)
    ]
    if config is not None:
        of_fit = {name: config.get(name) for name in ("model", "data", "trainer", "selection")}
        others += [name for name in of_fit if done.config.get(name) != of_fit[name]]
    if others:
        raise PrivacyError(
            f"{folder}: {', '.join(others)} differ from what the selection began with, and its "
            "account is of equal fits on the same crops. Start anew in another folder; what was "
            "spent here comes on top."
        )


def _has_converged(weights: Path) -> bool:
    """Whether weights give numbers; if noise made them diverge, all others are better.

    It looks at weights alone: whether a crop has a score is a matter of its patient.
    """
    stored = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    return all(bool((weight.abs() < _DIVERGED).all()) for weight in stored.values())


def _measured(
    record: RunRecord, folder: Path, plan: SelectionPlan, split: Split, key: int
) -> float:
    """Score of a finished fit on a split, with noise under a key."""
    tested = folder / f"test_{split}"
    shutil.rmtree(tested, ignore_errors=True)  # of a process that died before the score was sealed
    words = ["--run", str(folder), "--run_dir", str(tested)]
    _train(["test", *words, "--data.init_args.evaluate_split", split])
    _require_declared(record, tested)
    found = read_predictions(tested / PREDICTIONS)
    if plan.score_noise_multiplier is None:
        return auroc(found.malignant, found.logit)
    scale = plan.score_noise_multiplier / len(set(found.patient.tolist()))
    noise = draw(key, 0, NOISE).standard_normal()
    return concordance(found.patient, found.malignant, found.logit) + scale * float(noise)


def _once(record: RunRecord, name: str, fresh: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was drawn or measured for this selection, made at the first call; sealed.

    Raises:
        PrivacyError: If the file is not as it was written, for this selection.
    """
    path = record.folder / CANDIDATES / name
    if not path.is_file():
        content = {"selection": record.config_sha256, "name": name, **fresh()}
        write_text_atomically(path, json.dumps(with_seal(content)) + "\n")
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        doubt = seal_doubt(stored)
        if (stored.get("selection"), stored.get("name")) != (record.config_sha256, name):
            doubt = doubt or "belongs to another selection"
    except (ValueError, AttributeError) as error:
        doubt = f"cannot be read ({error})"
    if doubt:
        raise PrivacyError(
            f"{path}: {doubt}, so the choice would not be the one that is accounted for. Restore "
            "it, or start anew in another folder."
        )
    return stored


def _copy(best: Path, released: Path, hashes: Sequence[str]) -> None:
    """Copies what is released of the run that was chosen; all else of it is private and stays.

    Raises:
        PrivacyError: If weights or statement are not there or not those that had the score.
    """
    part = released.with_name(f"{released.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for path in _RELEASED:
        if (best / path).is_file():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(best / path, part / path)
    for path, sha256 in zip((RELEASED, Path(STATEMENT)), hashes, strict=True):
        if not (part / path).is_file() or file_sha256(part / path) != sha256:
            raise PrivacyError(
                f"{best / path}: is not what was scored and chosen. Restore {best}; without it the "
                "selection, which is spent, has no release."
            )
    state_chosen(part)
    part.replace(released)


def _require_chosen(released: Path) -> None:
    """Checks that the statement of what is released is that of the fit that was chosen.

    Raises:
        PrivacyError: If it is a candidate's, which somebody may have copied there.
    """
    if any(access["void"] == CANDIDATE for access in read_statement(released)["accesses"]):
        raise PrivacyError(
            f"{released}: holds a candidate that this selection did not choose, and no account "
            "covers it. Remove it; the same command then releases the fit that was chosen."
        )


def _train(words: Sequence[str]) -> None:
    """Runs ``fit`` or ``test``."""
    train(words)
