# SPDX-License-Identifier: Apache-2.0
"""``fit``, ``validate`` and ``test``: Lightning's command line on write-once folders.

A fit writes one run folder and resumes from ``checkpoints/resume.ckpt`` when it was killed; at its
end it releases ``checkpoints/last.ckpt``, weights only. The other commands take ``--run RUN``:
configuration and weights come from that folder, results go below it.

A fit on several devices runs this command once per device. Rank 0 writes the folder; the others
find it open and only train.
"""

import logging
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported

# isort: split
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.seed import max_seed_value
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden

from classifier.module import CropClassifier
from classifier.weights import HUB, PACKAGE, model_of
from data_prep.datamodule import CropsDataModule
from data_prep.distortions import DISTORTIONS
from data_prep.manifest import FILE_NAME as CROPS
from data_prep.recorded import as_recorded
from mammo_dp.crop_rule import TrainedCrops
from mammo_dp.privacy.accounting.selection import SelectionPlan
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.document import FILE_NAME as STATEMENT
from mammo_dp.privacy.statement.document import covering_ledger
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.lineage import collect_parents, public_ledger, warn_of_unknown
from mammo_dp.privacy.statement.seals import RESUME, Binding, SealedFeatures
from mammo_dp.privacy.training.classifier import refuse_selection
from mammo_dp.privacy.training.fit_statement import write_fit_statement
from mammo_dp.privacy.training.module import DPTraining, refuse_trainer
from mammo_dp.privacy.training.outside import outside_classes
from mammo_dp.privacy.training.plugins import SealedCheckpointIO
from mammo_dp.runs import (
    RELEASED,
    RunError,
    RunRecord,
    close_run,
    file_sha256,
    forget_run,
    leave_run,
    open_run,
    part_of,
    recorded_files,
    write_text_atomically,
)
from mammo_dp.training_help import ALL, DESCRIPTIONS, RUN, RUN_DIR, STRESS, WORDS
from mammo_dp.training_progress import LinesOfTraining
from mammo_dp.usage import in_words

CONFIG = "config.yaml"
_ENDED = "has_ended"  # of a training state: no step follows
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a safe loader; in C ten times as fast
# Load weights, of the hub or a file, that no statement would know of.
_PAST_THE_LINEAGE = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
# Differ between a fit and its repetition elsewhere, or are derived from `run_dir`.
_NOT_CONFIG = ("config", "run", "run_dir", "ckpt_path", "weights_only", "verbose")


class _Finished(Exception):
    """The run folder already holds the finished run that was asked for."""


class _Parser(LightningArgumentParser):
    """Says in a sentence what words of the command are wrong."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints usage and what is wrong, and ends the process with status 2."""
        if "arguments are required" in message and "model" in message:
            message = (
                "no model and data are chosen. A fit takes --config FILE, test and validate "
                "--run RUN."
            )
        super().error(in_words(message), ex)


class TrainingCLI(LightningCLI):
    """Lightning's command line, with any model and data, on run folders."""

    record: RunRecord
    words: ArgsType

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """Runs the command; one that is refused leaves no folder behind."""
        self.while_running = ExitStack()
        try:
            with self.while_running:
                super().__init__(*arguments, **settings)
        except ValueError:  # as all refusals are
            if hasattr(self, "record"):
                forget_run(self.record, CONFIG, "logs/*/hparams.yaml")
            raise
        finally:
            if hasattr(self, "record"):
                leave_run(self.record)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Keeps the words of the command, see :meth:`before_fit`.

        Raises:
            RunError: For a seed that no generator of random numbers takes.
        """
        self.words = args
        super().parse_arguments(parser, args)
        seed = self.config[self.config.subcommand].seed_everything
        if not isinstance(seed, bool) and not 0 <= seed <= max_seed_value:
            raise RunError(f"--seed_everything: is {seed}. Give 0 to {max_seed_value}.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--run_dir``, ``--run`` and ``--stress``."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help=RUN_DIR,
        )
        parser.add_argument(
            "--run",
            type=str | None,
            default=None,
            help=RUN,
        )
        parser.add_argument("--stress", action="store_true", help=STRESS)
        parser.add_argument(
            "--selection",
            type=SelectionPlan | None,
            default=None,
            help="How the fit takes part in a selection; set by `mammo-dp privacy select`.",
        )
        parser.link_arguments("run_dir", "trainer.default_root_dir")

    def before_instantiate_classes(self) -> None:
        """Opens the run folder before any compute is spent."""
        config = self.config[self.subcommand]
        fitting = self.subcommand == "fit"
        if config.get("ckpt_path"):
            raise RunError(
                "--ckpt_path: would override the configuration. Initial weights of a fit go to "
                "--model.init_args.weights; a killed fit resumes by itself; the other commands "
                "take --run."
            )
        if fitting and config.run:
            raise RunError("--run: belongs to validate and test. A fit takes --run_dir.")
        if fitting and not config.run_dir:
            raise RunError("--run_dir: is missing. Give the folder that the fit shall write.")
        if not fitting and not config.run:
            raise RunError(
                f"--run: is missing. Give the run folder of the fit to {self.subcommand}."
            )
        if config.stress and self.subcommand != "test":
            raise RunError(f"--stress: belongs to test, not to {self.subcommand}.")
        if not fitting and not config.run_dir:
            split = config.data.init_args.get("evaluate_split", "")
            kind = "stress" if config.stress else self.subcommand
            config.run_dir = str(Path(config.run) / f"{kind}_{split}".rstrip("_"))
            config.trainer.default_root_dir = config.run_dir
        if not fitting:  # one process writes one table of predictions, each crop once
            config.trainer.devices = config.trainer.num_nodes = 1
            config.trainer.strategy = "auto"
        plain = self.plain_config()
        unbooked = set(plain["model"].get("init_args", {}).get("backbone_args") or {})
        if unbooked := unbooked.intersection(_PAST_THE_LINEAGE):
            raise RunError(
                f"backbone_args: {', '.join(sorted(unbooked))} would load weights that no "
                "statement counts. Give --model.init_args.weights."
            )
        inputs = self._inputs(plain)
        self.record = open_run(
            config.run_dir,
            command=str(self.subcommand),
            config=plain,
            inputs=inputs,
            seed=config.seed_everything,
            alone=self._is_alone(),
        )
        self.while_running.enter_context(as_recorded(recorded_files(self.record, inputs)))
        if fitting and (self.record.is_finished or _is_released(self.record.folder)):
            self._close()  # whoever released it may have been killed before this
        if self.record.is_finished:
            raise _Finished
        if fitting:
            self.parents = collect_parents(entry.path for entry in self.record.inputs.values())
            rank_zero_only(warn_of_unknown)(self.parents)
        if self._is_alone():
            write_text_atomically(
                self.record.folder / CONFIG, yaml.safe_dump(plain, sort_keys=False)
            )
        resume = self.record.folder / RESUME
        if fitting and (weights := self.record.folder / RELEASED).exists():
            _require_last(resume, weights)
        if fitting:
            config.ckpt_path = str(resume) if resume.exists() else None
        else:
            config.ckpt_path = str(Path(config.run) / RELEASED)
            arguments = config.model.init_args
            if "weights" in arguments:
                arguments["weights"] = None  # the checkpoint holds the final ones
            if "backbone" in arguments and arguments["backbone"] is None:
                for name, value in model_of(config.ckpt_path).as_settings().items():
                    arguments[name] = value

    def _is_alone(self) -> bool:
        """Whether this is no further process of a fit that was asked to take several devices."""
        trainer = self.config[self.subcommand].trainer
        asked = (str(trainer.devices), str(trainer.num_nodes))
        return asked == ("1", "1") or not getattr(rank_zero_only, "rank", 0)

    def instantiate_classes(self) -> None:
        """Builds model, data and trainer.

        Raises:
            RunError: With what a class says of its arguments; the parser wraps that in a list of
                all types that it tried. Errors of our own packages pass as they are.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause = error.__cause__
            if not isinstance(cause, ValueError | TypeError) or "Union subtypes" not in str(error):
                raise
            ours = type(cause) not in (ValueError, TypeError)
            raise (cause if ours else RunError(f"{cause}")) from error

    def plain_config(self) -> dict[str, Any]:
        """Configuration of the chosen command as plain values, without where it is written."""
        # What was parsed is valid, and to check it again takes half of the time.
        try:
            text = self.parser.dump(self.config, skip_none=False, skip_validation=True)
        except yaml.YAMLError as error:
            raise RunError(
                f"{self.subcommand}: an argument cannot be written into {CONFIG} ({error}), so "
                "nobody could run it again. Leave the class out that takes it, such as a callback."
            ) from error
        config = yaml.load(text, Loader=_YAML)[self.subcommand]
        for name in _NOT_CONFIG:
            config.pop(name, None)
        config["trainer"].pop("default_root_dir", None)
        for name in ("selection", "stress"):
            if not config[name]:
                del config[name]
        return dict(config)

    def _inputs(self, config: dict[str, Any]) -> dict[str, Path]:
        inputs = {}
        if crops := config["data"].get("init_args", {}).get("crops"):
            inputs["data"] = Path(crops)
        if self.subcommand != "fit":
            inputs["checkpoint"] = Path(self.config[self.subcommand].run) / RELEASED
            return inputs
        weights = config["model"].get("init_args", {}).get("weights")
        if weights and weights not in (HUB, PACKAGE):
            inputs["weights"] = Path(weights)
        return inputs | _further_files(config, {path.resolve() for path in inputs.values()})

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the logger and, for a fit, the checkpoint from which a killed run resumes.

        Raises:
            PrivacyError: If the settings would break the guarantee of a private fit.
        """
        folder, chosen = self.record.folder, self.config_init[self.subcommand].trainer
        for name in ("val_check_interval", "check_val_every_n_epoch"):
            if chosen[name] == 0:
                raise RunError(
                    f"--trainer.{name}: is 0. Give 1 or more; --trainer.limit_val_batches 0 leaves "
                    "validation out."
                )
        part = len(list((folder / "logs").glob("version_*")))  # a resumed fit keeps earlier parts
        kwargs.setdefault("logger", CSVLogger(folder, name="logs", version=part))
        kwargs.setdefault("enable_checkpointing", self.subcommand == "fit")
        if self.subcommand == "fit":
            keep = _keep(folder / RESUME, self.model, chosen.max_steps)
            given = chosen.callbacks or []
            given = given if isinstance(given, list) else [given]
            kwargs["callbacks"] = [*given, keep, _LastState(folder / RESUME)]
            if chosen.enable_progress_bar is not False:
                bars = any(isinstance(callback, ProgressBar) for callback in kwargs["callbacks"])
                if not sys.stderr.isatty():
                    kwargs["callbacks"].append(LinesOfTraining())
                    kwargs["enable_progress_bar"] = bars  # rich's leaves half a line in a file
                elif not bars:  # rich's counts to epoch -2 where steps end a fit
                    kwargs["callbacks"].append(TQDMProgressBar())
            self.parents = self.parents.joined([public_ledger(self.model)])
            rank_zero_only(warn_of_unknown)(public_ledger(self.model))
            state = SealedCheckpointIO(Binding.of_run(self.record))
            plugins = chosen.plugins or []
            kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), state]
        if isinstance(self.model, CropClassifier):
            self.model.features_seal = SealedFeatures()
        private = self.subcommand == "fit" and isinstance(self.model, DPTraining)
        if private:  # the Poisson sampler shares out its draws by itself
            kwargs["use_distributed_sampler"] = False
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (
            MisconfigurationException,
            ImportError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            if isinstance(error, RunError | PrivacyError):  # ours say more
                raise
            raise RunError(
                f"--trainer: {error} It was given accelerator={chosen.accelerator!r}, "
                f"devices={chosen.devices!r}, strategy={chosen.strategy!r}. "
                "--trainer.accelerator cpu runs everywhere."
            ) from error
        if trainer.is_global_zero and not self._is_alone():
            raise RunError(
                "--trainer.devices: the environment calls this a further process of a fit (RANK, "
                "LOCAL_RANK or SLURM_PROCID), but it would train alone, and so would the others. "
                "Give --trainer.devices and --trainer.num_nodes as many as there are processes, or "
                "unset these variables."
            )
        if self.subcommand == "fit" and (plan := self.selection) is not None:
            refuse_selection(plan, self.model, self.datamodule)
        if private:
            refuse_trainer(trainer)
            self.parents.statements(self.model.budget.delta)  # theirs hold at this delta, or raise
        return trainer

    @property
    def selection(self) -> SelectionPlan | None:
        """How this fit takes part in a selection, if it does."""
        plan: SelectionPlan | None = self.config_init[self.subcommand].selection
        return plan

    def before_fit(self) -> None:
        """Refuses to start further ranks where they would do something else than this fit.

        Raises:
            RunError: If this fit is a part of a longer command.
        """
        devices = self.trainer.num_devices * self.trainer.num_nodes
        if devices > 1 and sys.argv[1:] != self.words:
            raise RunError(
                f"{devices} devices: each further one runs the command of this process again, "
                f"`{' '.join(map(str, sys.argv[1:4]))} ...`, of which this fit is only a part. "
                "Run the fit alone, by `mammo-dp fit`; then run this command, which finds it "
                "finished."
            )

    def after_fit(self) -> None:
        """Releases the last weights, states what they cost, closes the folder.

        Raises:
            RunError: If training stopped before its end.
        """
        folder = self.record.folder
        if self.trainer.interrupted or not self.trainer.state.finished:
            raise RunError(f"{folder}: training stopped early. Run the same command to resume.")
        self.trainer.save_checkpoint(folder / RELEASED, weights_only=True)  # all ranks meet here
        if not self.trainer.is_global_zero:
            return
        TrainedCrops.of_folder(self.datamodule.manifest.folder).write(folder)
        # From here on the weights are released, and these patients are trained on no more.
        write_fit_statement(self.record, self.trainer, folder / RELEASED, self.selection)
        self._close()

    def _close(self) -> None:
        """Closes the folder of a fit that is released, and gives up the state to resume from."""
        resume = self.record.folder / RESUME
        part_of(resume).unlink(missing_ok=True)  # of a process that was killed as it wrote it
        if not self.record.is_finished:
            self.record = close_run(self.record, passing=RESUME)
        resume.unlink(missing_ok=True)

    def before_validate(self) -> None:
        """Refuses a model without a loss on held-out crops.

        Raises:
            RunError: Naming what measures it.
        """
        self._require("validation_step")

    def before_test(self) -> None:
        """Tells the model who saw the patients before; has crops distorted if that was asked for.

        Raises:
            RunError: If data or model are not of a class that can be distorted.
        """
        self._require("test_step")
        data, model = self.datamodule, self.model
        if isinstance(data, CropsDataModule) and isinstance(model, CropClassifier):
            behind = collect_parents(entry.path for entry in self.record.inputs.values())
            met = behind.met(Cohort.of_manifest(data.manifest, data.evaluate_split))
            model.seen, model.perhaps_seen = met.surely, met.perhaps
        if not self.config_init[self.subcommand].stress:
            return
        if not isinstance(data, CropsDataModule) or not isinstance(model, CropClassifier):
            raise RunError(
                f"--stress: {type(model).__name__} on {type(data).__name__} cannot be tested on "
                "distorted crops. Give a run of a CropClassifier on a CropsDataModule."
            )
        if data.depth is not None:
            raise RunError("--stress: distorts crops in the plane, and the data are volumes.")
        data.distortions = tuple(DISTORTIONS)

    def _require(self, step: str) -> None:
        """Refuses a model that has no such step, as generators have none."""
        if not is_overridden(step, self.model):
            raise RunError(
                f"--run: {type(self.model).__name__} scores no crops, so there is nothing to "
                f"{self.subcommand}. A generator is measured by what it draws: `mammo-dp "
                "generate`, then `mammo-dp fidelity`."
            )

    def after_validate(self) -> None:
        """Closes the folder."""
        close_run(self.record)

    after_test = after_validate


def _require_last(resume: Path, weights: Path) -> None:
    """Checks that the state to resume from is that of weights that were written already.

    Args:
        resume: The state.
        weights: Of a process that ended before its statement.

    Raises:
        RunError: If there is none, or that of an earlier step of a private fit.
    """
    with suppress(Exception):  # torch raises errors of many types, here for no file or another
        state = torch.load(resume, map_location="cpu", weights_only=True)
        if "accountant" not in state or state.get(_ENDED):
            return
    raise RunError(
        f"{weights}: was written by an earlier start, and neither a statement nor the state of its "
        "last step lies here. Whoever may have seen these weights, the same command would make "
        "others. Choose a new folder; what it spends comes on top."
    )


def _is_released(folder: Path) -> bool:
    """Whether a statement covers the last weights, so that further steps would be another fit."""
    weights = folder / RELEASED
    if not (weights.is_file() and (folder / STATEMENT).is_file()):
        return False
    return isinstance(covering_ledger(folder, file_sha256(weights)), PrivacyLedger)


def _further_files(config: Mapping[str, Any], known: Collection[Path]) -> dict[str, Path]:
    """Files that further arguments of model, data or parts of the trainer name, by argument.

    Weights may come in by any argument of a class from anywhere, so each file is an input, whose
    lineage counts. Words of our own classes are no paths, whatever lies beside.

    Args:
        config: Plain values.
        known: Resolved paths of inputs that are known already.

    Raises:
        RunError: For a further folder of crops: a statement counts the patients of one. For any
            folder that outside code is given: it may load what lies in it.
    """
    parts = {name: config[name] for name in ("model", "data")}
    for kind, given in (config.get("trainer") or {}).items():
        for number, one in enumerate(given if isinstance(given, list) else [given]):
            # Callbacks, loggers, plugins; ours bring in no weights, and write the file they name.
            if isinstance(one, Mapping) and outside_classes(one):
                parts[f"trainer.{kind}.{number}"] = one
    found = {}
    for part, content in parts.items():
        is_ours = not outside_classes(content)
        for role, value in _texts(content, part):
            path = Path(value).expanduser()
            is_word = "/" not in value and not path.suffix
            if path.resolve() in known or (is_word and is_ours):
                continue
            if (path / CROPS).is_file() or (path.name == CROPS and path.is_file()):
                raise RunError(
                    f"--{role} {value}: is a further folder of crops, and a statement counts the "
                    "patients of data.init_args.crops. Prepare one folder of all crops."
                )
            if path.is_dir() and not is_ours and any(path.iterdir()):
                raise RunError(
                    f"--{role} {value}: is a folder, and nobody here knows what {part} would load "
                    "of it. Give the files, each by an argument: they are inputs whose lineage "
                    "counts."
                )
            if path.is_file():
                found[role] = path
    return found


def _texts(value: object, name: str) -> Iterator[tuple[str, str]]:
    """Each text in a tree of plain values, with the names and numbers that lead to it."""
    if isinstance(value, str):
        yield name, value
    named: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        named = value.items()
        yield from ((f"{name}.{key}", key) for key in value if isinstance(key, str))
    elif isinstance(value, list | tuple):
        named = enumerate(value)
    for key, one in named:
        yield from _texts(one, f"{name}.{key}")


def _keep(path: Path, model: LightningModule, max_steps: int) -> ModelCheckpoint:
    """The state to resume from: after every epoch, or 20 times within the one epoch of a DP run."""
    often: dict[str, Any] = (
        {"every_n_train_steps": max(1, max_steps // 20)}
        if isinstance(model, DPTraining)
        else {"every_n_epochs": 1}
    )
    return ModelCheckpoint(
        path.parent, filename=path.stem, save_top_k=1, enable_version_counter=False, **often
    )


class _LastState(Callback):
    """Keeps the state of the last step, whether or not it is due.

    A fit that is killed after it has written its weights, which somebody may have seen, ends with
    the same ones.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.has_ended = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the module is made ready to be released."""
        self.has_ended = not trainer.interrupted
        if self.has_ended:
            trainer.save_checkpoint(self.path)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Marks the state after which no step follows."""
        if self.has_ended and "optimizer_states" in checkpoint:
            checkpoint[_ENDED] = True


# Parsers by command, as attributes of a command line. To build one takes as long as a small fit,
# and a selection or a benchmark runs many fits in a process.
_BUILT: dict[str, dict[str, Any]] = {}


def _of_one_command(command: str) -> type[TrainingCLI]:
    """The command line with the flags of one command: those of all four take four times as long."""

    class OneCommand(TrainingCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {command: LightningCLI.subcommands()[command]}

        def setup_parser(self, *arguments: Any, **settings: Any) -> None:
            """Builds the parser, or takes that of an earlier command of this process."""
            if (built := _BUILT.pop(command, None)) is None:
                before = set(vars(self))
                super().setup_parser(*arguments, **settings)
                built = {name: value for name, value in vars(self).items() if name not in before}
            vars(self).update(built)
            self.built = built

        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            """Keeps the parser for the next command, unless what it read was wrong."""
            try:
                super().parse_arguments(parser, args)
            except SystemExit as end:
                if not end.code:  # it printed what was asked for
                    _BUILT[command] = self.built
                raise
            _BUILT[command] = self.built

    return OneCommand


def train(arguments: Sequence[str]) -> None:
    """Runs ``fit``, ``validate`` or ``test``.

    Args:
        arguments: Name of the command and its flags.
    """
    arguments = ["--help" if word == ALL else word for word in arguments]
    _refuse_missing_files(arguments)
    if arguments and arguments[0] != "fit" and (run := next(_values_of("--run", arguments), None)):
        config = Path(run) / CONFIG
        if not config.is_file():
            raise RunError(f"--run {run}: holds no {CONFIG}. Give the run folder of a fit.")
        arguments[1:1] = ["--config", str(config)]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no product tips
    try:
        with warnings.catch_warnings():
            for message in _QUIET:
                warnings.filterwarnings("ignore", message)
            _of_one_command(arguments[0])(
                LightningModule,
                LightningDataModule,
                save_config_callback=None,  # open_run refuses, before compute is spent
                seed_everything_default=42,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # modules save their own primitives
                trainer_defaults={
                    "devices": 1,
                    "num_sanity_val_steps": 0,
                    "enable_model_summary": False,
                    "log_every_n_steps": 10,
                },
                parser_class=_Parser,
                parser_kwargs={
                    arguments[0]: {
                        "description": DESCRIPTIONS[arguments[0]],
                        "usage": f"mammo-dp {arguments[0]} {WORDS[arguments[0]]}",
                    }
                },
                args=arguments,
            )
    except _Finished:
        print("Already finished; nothing to do.")


# Warnings that a user can do nothing about.
_QUIET = (
    "LightningCLI's args parameter is intended",  # we pass the words that we were given
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # lightning 2.6 on torch 2.13
    r"Found \d+ module\(s\) in eval mode",  # frozen parts stay in evaluation mode
    "Using ModelCheckpoint with manual optimization",  # weights after the step are the right ones
    "The number of training batches",  # small cohorts have few batches
    "You passed in a `val_dataloader` but have no `validation_step`",  # generators have none
    r"The '\w+' does not have many workers",  # crops lie in memory
    "Checkpoint directory .* exists and is not empty",  # of a resumed run
    "Experiment logs directory .* exists and is not empty",
)


def _refuse_missing_files(arguments: Sequence[str]) -> None:
    """Refuses a configuration that is not there before a parser is built, which takes seconds.

    Raises:
        RunError: For a path that is no file.
    """
    for flag in ("--config", "-c"):
        for name in _values_of(flag, arguments):
            if name.endswith((".yaml", ".yml")) and not Path(name).is_file():
                shipped = Path(__file__).resolve().parent.parent / "configs"
                where = shipped if shipped.is_dir() else "configs/ of its source tree"
                raise RunError(
                    f"{flag} {name}: does not exist. Give the path of a file; those of this "
                    f"project lie in {where}."
                )


def _values_of(flag: str, arguments: Sequence[str]) -> Iterator[str]:
    for here, following in zip(arguments, [*arguments[1:], None], strict=True):
        if here == flag and following is not None:
            yield following
        if here.startswith(f"{flag}="):
            yield here.partition("=")[2]
