# SPDX-License-Identifier: Apache-2.0
"""Lets timm and Lightning import beside a CPU build of torch.

Both import torchvision. Its registry wheel is compiled for CUDA; beside a CPU build of torch its
compiled operators cannot be loaded, and ``import torchvision`` then stops on two operators whose
schema the missing library would have declared. Declaring the schemas is enough: no one here calls
box suppression. They are declared when torchvision is imported, since torch takes seconds to import
and many commands need neither.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _BeforeTorchvision(MetaPathFinder):
    """Declares the operators when the import of torchvision begins; finds no module itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Leaves every module to the finders after it."""
        if fullname == "torchvision":
            declare_missing_operators()
        return None


def prepare_torchvision() -> None:
    """Declares torchvision's box operators, where they are missing, before its first import."""
    sys.meta_path.insert(0, _BeforeTorchvision())


def declare_missing_operators() -> bool:
    """Declares torchvision's box operators if its compiled library cannot be loaded.

    Returns:
        Whether the operators had to be declared.
    """
    from importlib.metadata import PackageNotFoundError, version  # here: only torchvision asks

    try:
        mismatched = version("torch").endswith("+cpu") and "+cpu" not in version("torchvision")
    except PackageNotFoundError:
        return False
    if not mismatched:
        return False
    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _KEPT.append(library)  # a collected Library takes its operators with it
    return True


_KEPT: list[object] = []
