# SPDX-License-Identifier: Apache-2.0
"""A classifier as an ONNX graph: crops in, logits and probabilities out, calibration inside.

Needs the extra ``export``: ``pip install -e ".[export]"`` in the source tree.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from classifier.released import ReleasedClassifier
from mammo_dp.exchange.errors import ExportError

INPUT, OUTPUTS = "image", ("logit", "probability", "calibrated_probability")
OPSET = 20  # with Gelu as one operator
_PACKAGES = ("onnx", "onnxscript")
# Of torch 2.13 about itself.
_QUIET = "`isinstance\\(treespec, LeafSpec\\)` is deprecated"


class _Scores(nn.Module):
    """From an image to all that ``predictions.csv`` says of it."""

    def __init__(self, released: ReleasedClassifier) -> None:
        super().__init__()
        self.model = released.model
        self.calibration = released.calibration

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps ``(B, 1, H, W)`` in ``[-1, 1]`` to columns of shape ``(B,)``."""
        logit: Tensor = self.model(image)
        if self.calibration is None:
            return logit, torch.sigmoid(logit)
        fitted = self.calibration.slope * logit + self.calibration.intercept
        return logit, torch.sigmoid(logit), torch.sigmoid(fitted)


def require_onnx() -> None:
    """Checks for the packages before anything is written.

    Raises:
        ExportError: If one is missing.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ExportError(
            f'{", ".join(missing)}: not installed. Run `pip install -e ".[export]"` in the '
            "source tree."
        )


def write_onnx(path: Path, released: ReleasedClassifier, facts: dict[str, str]) -> None:
    """Writes one file: the graph with its weights, for any number of crops at once.

    Args:
        path: The file.
        released: Model and calibration.
        facts: Metadata of the file, such as the hash of the statement.
    """
    size = int(released.model.hparams["image_size"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _QUIET)
        program = torch.onnx.export(
            _Scores(released).eval(),
            (torch.zeros(2, 1, size, size),),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS if released.calibration else OUTPUTS[:2]),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(facts)
    program.save(path)
