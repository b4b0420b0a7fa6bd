"""Forty lines: a network and data of one's own, trained with a guarantee per patient."""

import mammo_dp

# isort: split
import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset


class MyNetwork(mammo_dp.DPTraining):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1))
        budget = mammo_dp.PrivacyBudget(epsilon=6.0, delta=1e-3)
        self.configure_privacy(budget, clipping_norm=1.0)

    def losses(self, batch: mammo_dp.CropBatch) -> Tensor:
        logits = self.net(batch.image).squeeze(1)
        return binary_cross_entropy_with_logits(
            logits, batch.malignant.to(logits.dtype), reduction="none"
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.privatise(torch.optim.SGD(self.net.parameters(), lr=0.5))


def my_data() -> tuple[TensorDataset, list[str]]:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 8, generator=random)
    labels = (inputs[:, 0] + inputs[:, 1] > 0).long()
    return TensorDataset(inputs, labels), [f"patient {row // 2}" for row in range(400)]


def main() -> MyNetwork:
    model, data = MyNetwork(), mammo_dp.DPDataModule(*my_data(), rate=0.25)
    trainer = lightning.Trainer(max_steps=60, accelerator="cpu", logger=False, barebones=True)
    trainer.fit(model, data)
    risk = mammo_dp.risk_of(mammo_dp.compose(model.mechanisms))
    print(f"epsilon {model.spent_epsilon:.2f}, advantage of any attacker {risk.advantage:.2f}")
    return model


if __name__ == "__main__":
    main()
