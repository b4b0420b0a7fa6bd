# SPDX-License-Identifier: Apache-2.0
"""Help of ``fit``, ``validate`` and ``test``, without importing Lightning, which takes seconds."""

import argparse
from collections.abc import Mapping

from mammo_dp import MODULES
from mammo_dp.signatures import first_line

DESCRIPTIONS: Mapping[str, str] = {
    "fit": "Trains a model on crops and writes a run folder with its privacy statement.",
    "validate": "Measures a run on the evaluation split, without writing predictions.",
    "test": "Writes predictions.csv and metrics.json of a run on the evaluation split.",
}
_OF_A_RUN = "--run DIR [--data.init_args.evaluate_split test] [flags]"
WORDS: Mapping[str, str] = {
    "fit": "--config FILE [--config FILE ...] --run_dir DIR [flags]",
    "validate": _OF_A_RUN,
    "test": _OF_A_RUN,
}
RUN_DIR = (
    "Folder to write. New, or the unfinished folder of the same command, which is resumed. "
    "validate and test take, if none is given, a folder below --run named after the command and "
    "the split."
)
RUN = "Run folder of a fit whose configuration and weights are used (validate and test)."
STRESS = (
    "test: scores the crops once more for each distortion (grey curves, windows, blur, shift, "
    "scale, resolution) and writes stress.json and stress.csv, by default into a folder below "
    "--run named stress_ and the split."
)
ALL = "--help_all"  # asks Lightning's parser, which is slow and long
_MODELS = (
    "CropClassifier",
    "DPCropClassifier",
    "CropPretraining",
    "MCGAN",
    "DPMCGAN",
    "CropAutoencoder",
    "LatentDiffusion",
    "DPLatentDiffusion",
)
_DATA = ("CropsDataModule", "DPCropsDataModule")
_TRAINER = {
    "max_epochs N": "Epochs of a fit without privacy.",
    "max_steps N": "Steps; of a private fit, the number that the noise is calibrated for.",
    "accelerator NAME": "cpu, gpu or auto.",
    "devices N": "Devices; more than one needs --trainer.strategy, dp_ddp for a private fit.",
    "precision NAME": "32-true or bf16-mixed, such as on a GPU.",
    "enable_progress_bar BOOL": "false where output goes to a file.",
}


def print_help(command: str) -> None:
    """Prints what a command takes.

    Args:
        command: ``fit``, ``validate`` or ``test``.
    """
    parser = argparse.ArgumentParser(
        prog=f"mammo-dp {command}",
        usage=f"mammo-dp {command} {WORDS[command]}",
        description=DESCRIPTIONS[command],
        epilog="Flags override the files; later files override earlier ones. Further help: "
        f"`mammo-dp {command} {ALL}` lists every flag of Lightning's Trainer, "
        f"`mammo-dp {command} --model.help mammo_dp.DPCropClassifier` and `--data.help CLASS` the "
        "arguments of a class, which --print_config shows as YAML.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="YAML file of flags, see configs/.")
    add("--run_dir", metavar="DIR", help=RUN_DIR)
    add("--run", metavar="DIR", help=RUN)
    if command == "test":
        add("--stress", action="store_true", help=STRESS)
    add("--seed_everything", metavar="N", help="Seed of initial weights and augmentation.")
    add("--print_config", action="store_true", help="Print the configuration and stop.")
    add(ALL, action="store_true", help="Print every flag; takes seconds.")
    for part, what, names in (("model", "model", _MODELS), ("data", "data module", _DATA)):
        group = parser.add_argument_group(f"{what}, any class such as")
        group.add_argument(f"--{part}", metavar="CLASS", help="Name of the class, or its YAML.")
        group.add_argument(f"--{part}.init_args.NAME", metavar="VALUE", help="An argument of it.")
        for name in names:
            text = first_line(f"{MODULES[name]}:{name}").replace("``", "")
            group.add_argument(f"mammo_dp.{name}", nargs="?", help=text)
    group = parser.add_argument_group("trainer, arguments of Lightning's Trainer such as")
    for flag, text in _TRAINER.items():
        name, _, value = flag.partition(" ")
        group.add_argument(f"--trainer.{name}", metavar=value, help=text)
    parser.print_help()
