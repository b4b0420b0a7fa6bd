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


def test_features_of_a_crop_are_the_same_alone_and_among_others() -> None:
    """To the last bit: what one patient changes is that patient's features, and no others'."""
    torch.manual_seed(0)
    model = CropClassifier(backbone="resnet10t", backbone_args={}, image_size=32).eval()
    crops = np.random.default_rng(0).integers(0, 65536, (13, 32, 32)).astype(np.uint16)
    alone = np.concatenate([unit_features(model, one[None]) for one in crops])
    for batch in (2, 3, 7, 13):
        parts = [unit_features(model, crops[at : at + batch]) for at in range(0, 13, batch)]
        assert np.array_equal(np.concatenate(parts), alone)
