# SPDX-License-Identifier: Apache-2.0
"""Code of a fit that is no part of the toolkit: what its statement says of it.

Models, data and callbacks may come from anywhere. Nobody here has read them, so they are named in
the statement. Where one replaces what keeps the account, the account counts for nothing.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # lightning takes seconds to import; verify does without
    from mammo_dp.privacy.training.module import DPTraining

OURS = ("data_prep", "gan", "classifier", "mammo_dp")
_READ = (*OURS, "lightning", "pytorch_lightning", "torch")
# Of DPTraining: what draws, clips, adds noise and counts.
_ACCOUNT = (
    "training_step",
    "privatise",
    "sampling",
    "accountant",
    "accounted_steps",
    "mechanisms",
    "noise_multiplier",
    "_account_step",
)


def outside_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Classes that a fit takes from outside of the toolkit and of lightning.

    Args:
        config: Of the fit, plain values.

    Returns:
        Their import paths, sorted.
    """
    return tuple(sorted({path for path in _class_paths(config) if not _starts_with(path, _READ)}))


def outside_code(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a statement says of such classes, as an exclusion; nothing where there are none.

    Args:
        config: Of the fit, plain values.
    """
    if not (found := outside_classes(config)):
        return ()
    return (
        f"Code that is no part of mammo_dp took part in a fit ({', '.join(found)}). What is said "
        "here holds if it uses crops of patients in `losses` alone, those of each patient by "
        "themselves, and keeps nothing of them. That was tried out on noise images, and is not "
        "shown.",
    )


def replaced_parts(module: "DPTraining") -> list[str]:
    """Parts of ``DPTraining`` that keep the account, and that outside code replaces.

    Args:
        module: Model of a private fit.

    Returns:
        Names, sorted.
    """
    from mammo_dp.privacy.training.module import DPTraining

    kinds = type(module).__mro__
    outside = [
        kind for kind in kinds[: kinds.index(DPTraining)] if not _starts_with(kind.__module__, OURS)
    ]
    return sorted({name for kind in outside for name in _ACCOUNT if name in vars(kind)})


def _class_paths(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(path := value.get("class_path"), str):
            yield path
        for one in value.values():
            yield from _class_paths(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _class_paths(one)


def _starts_with(path: str, packages: tuple[str, ...]) -> bool:
    return path.partition(".")[0] in packages
