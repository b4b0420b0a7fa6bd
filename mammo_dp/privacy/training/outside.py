# SPDX-License-Identifier: Apache-2.0
"""Code of a fit that is no part of the toolkit: what its statement says of it.

Models, data and callbacks may come from anywhere. Nobody here has read them, so they are named in
the statement. Where one replaces what keeps the account, the account counts for nothing.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mammo_dp.privacy.statement.document import OUTSIDE_CODE

if TYPE_CHECKING:  # lightning takes seconds to import; verify does without
    from mammo_dp.privacy.training.module import DPTraining

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
OURS = ("data_prep", "gan", "classifier", "mammo_dp")
_READ = (*OURS, "lightning", "pytorch_lightning", "torch")
SEEDED = "with draws and noise of a fixed seed, for tests: whoever knows it can remove the noise"
# Of DPTraining: what draws, clips, adds noise and counts.
_ACCOUNT = (
    "training_step",
    "privatise",
    "sampling",
    "accountant",
    "accounted_steps",
    "mechanisms",
    "executed",
    "noise_multiplier",
    "void",
    "spent_epsilon",
)


def outside_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Classes and functions that a fit takes from outside of the toolkit and of lightning.

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
        f"{OUTSIDE_CODE} took part in a fit ({', '.join(found)}). What is said "
        "here holds if it uses crops of patients in `losses` alone, those of each patient by "
        "themselves, keeps nothing of them, and brings in no weights or crops but those of its "
        "inputs. In a private fit that was tried out on noise images as far as it can be; it is "
        "not shown.",
    )


def is_seeded(data: Any) -> bool:  # noqa: ANN401  any data module
    """Whether draws and noise come from a fixed seed."""
    return getattr(data, "insecure_seed", None) is not None


def void_account(module: "DPTraining", data: Any, steps: int) -> str:  # noqa: ANN401
    """Why the account of a private fit guarantees nothing, as a clause; empty if it does.

    Args:
        module: Model of the fit.
        data: Data module of the fit.
        steps: That the trainer counted.
    """
    if found := void_step(module, data):
        return found
    if steps > module.accounted_steps:
        return f"in {steps} steps, of which its account holds {module.accounted_steps}"
    return ""


def void_step(module: "DPTraining", data: Any) -> str:  # noqa: ANN401
    """Why a step that is taken now guarantees nothing, as a clause; empty if it does.

    Args:
        module: Model of the fit.
        data: Data module of the fit.
    """
    if is_seeded(data):
        return SEEDED
    if replaced := replaced_parts(module):
        return (
            f"with an account that its own code replaces in part ({', '.join(replaced)}), which "
            "nobody here has read"
        )
    return ""


def replaced_parts(module: "DPTraining") -> list[str]:
    """Parts of ``DPTraining`` that keep or check the account, and that outside code replaces.

    Whatever has a private name belongs to them.

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
    private = {name for name in vars(DPTraining) if name[:1] == "_" and name[:2] != "__"}
    found = {n for kind in outside for n in {*_ACCOUNT, *private} if n in vars(kind)}
    return sorted({*found, *replaced_by_instance(module, DPTraining)})


def replaced_by_instance(one: object, kind: type) -> set[str]:
    """Names of methods of a class that an object has replaced for itself alone."""
    return {name for name in vars(one) if inspect.isfunction(vars(kind).get(name))}


def _class_paths(value: object) -> Iterator[str]:
    """Import paths in a configuration: of classes, and of functions that foreign classes take."""
    if isinstance(value, Mapping):
        if isinstance(path := value.get("class_path"), str):
            yield path
            if not _starts_with(path, OURS):
                given = _texts(value.get("init_args"))
                yield from (text for text in given if _IMPORT_PATH.fullmatch(text))
        for one in value.values():
            yield from _class_paths(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _class_paths(one)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _starts_with(path: str, packages: tuple[str, ...]) -> bool:
    return path.partition(".")[0] in packages
