import numpy as np

from classifier.features import body_features
from classifier.module import CropClassifier
from classifier.unit_features import features_of
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
