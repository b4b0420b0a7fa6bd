import numpy as np
import torch

from classifier.features import body_features
from classifier.module import CropClassifier
from classifier.unit_features import features_of, unit_features
from data_prep.datamodule import CropsDataset
from data_prep.manifest import CropsManifest

BODY = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}


def test_features_are_those_of_the_body_crop_by_crop_at_length_one(cohort: CropsManifest) -> None:
    model = CropClassifier(backbone_args=BODY, image_size=16).eval()
    rows = [5, 2, 9]
    found = features_of(model, cohort, rows)
    for features, row in zip(found, rows, strict=True):
        image = CropsDataset(cohort, [row], image_size=16)[0].image
        naive = body_features(model.net, image[None])[0].double().numpy()
        np.testing.assert_allclose(features, naive / np.linalg.norm(naive), atol=1e-6)


def test_gradients_flow_through_features() -> None:
    class Net(torch.nn.Module):
        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

        def forward_head(self, features: torch.Tensor, pre_logits: bool) -> torch.Tensor:
            assert pre_logits
            return features

    images = torch.randn(2, 1, 3, 3, requires_grad=True)
    found = unit_features(Net(), images)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    found[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
