# SPDX-License-Identifier: Apache-2.0
"""Plugins of Lightning's trainer: several devices (``DPDDPStrategy``) and sealed training state.

With ``--trainer.strategy dp_ddp`` all ranks draw alike from one key. Each takes its share of the
drawn units, the clipped sums of the shares are added up, and every rank adds the same noise to the
same sum: the released weights are those of one device, and so is the account.
"""

import io
from collections.abc import Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.seals import Binding
from mammo_dp.runs import write_bytes_atomically

NAME = "dp_ddp"


class DPDDPStrategy(DDPStrategy):
    """Processes that share the units of each draw and stay bit-identical.

    The module is not wrapped: torch's ``DistributedDataParallel`` would average raw gradients of
    whole batches, before any unit is clipped. What crosses the network are clipped sums without
    noise and the key, both in the clear: nodes must trust the network between them.

    Args:
        process_group_backend: ``gloo`` or ``nccl``; by default, what fits the device.
        timeout: Longest wait of one rank for the others.
        cluster_environment: Where ranks and addresses come from; by default, found by Lightning.
        start_method: Only ``popen``, which runs the command again for each further rank.

    Raises:
        PrivacyError: For another way to start the ranks.
    """

    def __init__(
        self,
        *,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=30),
        cluster_environment: ClusterEnvironment | None = None,
        start_method: str = "popen",
    ) -> None:
        if start_method != "popen":
            raise PrivacyError(
                f"strategy: {start_method=}. The account would end with the child processes that "
                "keep it, and the process that continues would state epsilon 0. Leave it at "
                "'popen'."
            )
        super().__init__(
            process_group_backend=process_group_backend,
            timeout=timeout,
            cluster_environment=cluster_environment,
        )

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Refuses: Lightning asks when it is about to replace the sampler that is accounted.

        Raises:
            PrivacyError: Always.
        """
        raise PrivacyError(
            "trainer: use_distributed_sampler=True would replace the Poisson sampler that is "
            "accounted, which knows its share by itself. Set use_distributed_sampler=False."
        )

    def configure_ddp(self) -> None:
        """Gives every rank the parameters and buffers of rank 0; the module stays unwrapped."""
        assert self.model is not None
        for tensor in chain(self.model.parameters(), self.model.buffers()):
            value = tensor.detach().contiguous()
            torch.distributed.broadcast(value, src=0)
            tensor.detach().copy_(value)

    def sum_over_ranks(self, sums: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all ranks, the same bits on every rank.

        Every rank calls this once per step, also with an empty share.

        Args:
            sums: Tensors of one device and type, in the same order on every rank.
        """
        flat = torch.cat([part.flatten() for part in sums])  # one message instead of hundreds
        torch.distributed.all_reduce(flat)
        totals = torch.split(flat, [part.numel() for part in sums])
        for part, total in zip(sums, totals, strict=True):
            part.copy_(total.view_as(part))


StrategyRegistry.register(
    NAME, DPDDPStrategy, description="Private training on several devices", override=True
)


class SealedCheckpointIO(TorchCheckpointIO):
    """Seals the training state of a run, and resumes from nothing else.

    Weights alone are written as they are: they are what is released, and a statement covers them.

    Args:
        binding: What the state belongs to.
    """

    def __init__(self, binding: Binding) -> None:
        super().__init__()
        self.binding = binding

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Writes a checkpoint in one move."""
        if "optimizer_states" not in checkpoint:
            checkpoint.pop("loops", None)  # count crops of patients who only validate
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes_atomically(Path(path), self.binding.sealed(content.getvalue()))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401  whatever torch.load takes
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads training state.

        Raises:
            PrivacyError: If it does not fit its seal.
        """
        content = io.BytesIO(self.binding.require(Path(path)))
        state: dict[str, Any] = torch.load(
            content, map_location=map_location, weights_only=weights_only
        )
        return state
