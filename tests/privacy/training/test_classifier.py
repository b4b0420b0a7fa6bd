from pathlib import Path

import pytest
import torch

from classifier.module import CropClassifier
from data_prep.errors import LabelError
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.datamodule import FeatureRows, ViewedCrops
from tests.classifier.test_token_transformer import ARGUMENTS
from tests.privacy.training.fits import BODY, data, model, quiet, trainer

pytestmark = quiet
TOKENS = {"backbone": "crop_tokens", "backbone_args": ARGUMENTS, "image_size": 32}


def run(cohort: CropsManifest, folder: Path, **settings: object) -> DPCropClassifier:
    torch.manual_seed(0)
    net = model(trainable="head", **settings)
    trainer(folder, max_steps=6).fit(net, data(cohort, insecure_seed=1))
    return net


def test_cached_run_equals_uncached_run(cohort: CropsManifest, tmp_path: Path) -> None:
    cached = run(cohort, tmp_path / "cached")
    uncached = run(cohort, tmp_path / "uncached", cache_features=False)
    assert list((tmp_path / "cached" / "features").iterdir())
    assert not (tmp_path / "uncached" / "features").exists()
    for one, two in zip(cached.parameters(), uncached.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-6)
    again = run(cohort, tmp_path / "cached")  # reads the cache
    for one, two in zip(cached.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("trainable", ["all", "last_blocks", "norm_bias", "lora"])
def test_a_transformer_trains_on_kept_maps_as_on_images(
    cohort: CropsManifest, tmp_path: Path, trainable: str
) -> None:
    def fitted(**settings: object) -> DPCropClassifier:
        torch.manual_seed(0)
        net = model(**TOKENS, trainable=trainable, **settings)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        trainer(folder, max_steps=3).fit(net, data(cohort, insecure_seed=1))
        assert (folder / "features").exists() == bool(settings.get("cache_features", True))
        return net

    kept = fitted()
    assert kept.method == "book_keeping"
    plain = fitted(cache_features=False, gradient_method="loop")
    for (name, one), two in zip(kept.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-5), name


def test_cached_training_touches_no_image(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cohort, tmp_path, views=2)

    def refuse(*_: object) -> None:
        raise AssertionError("an image was loaded")

    monkeypatch.setattr("mammo_dp.privacy.training.datamodule.ViewedCrops.__getitem__", refuse)
    assert run(cohort, tmp_path, views=2).accounted_steps > 0


def test_only_the_trainable_part_moves(cohort: CropsManifest, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = model(trainable="head").state_dict()
    end = run(cohort, tmp_path).state_dict()
    moved = {key for key in start if not torch.equal(start[key], end[key])}
    assert moved == {"net.head.weight", "net.head.bias"}


def test_views_reach_the_model_inside_each_row(cohort: CropsManifest, tmp_path: Path) -> None:
    net = model(views=3)
    module = data(cohort, augment="light")
    trainer(tmp_path, max_steps=2).fit(net, module)
    drawn = module.train_dataset.__getitems__(list(module.sampling.rows_of[0]))
    assert drawn.image.shape == (len(module.sampling.rows_of[0]), 3, 1, 32, 32)
    assert not torch.equal(drawn.image[:, 0], drawn.image[:, 1])
    with torch.no_grad():
        logits = net(drawn.image)
        assert logits.shape == drawn.image.shape[:2]
        assert torch.allclose(logits[:, 1], net(drawn.image[:, 1]), atol=1e-5)
        assert net.losses(drawn).shape == drawn.row.shape


def test_one_view_is_the_crop_as_it_is(cohort: CropsManifest, tmp_path: Path) -> None:
    module = data(cohort, augment="light")
    trainer(tmp_path, max_steps=1).fit(model(), module)
    rows = list(module.sampling.rows_of[0])
    expected = module.dataset(rows)
    drawn = module.train_dataset.__getitems__(rows)
    for image, index in zip(drawn.image, range(len(rows)), strict=True):
        assert torch.equal(image, expected[index].image)


@pytest.mark.parametrize("trainable", ["head", "norm_bias"])
def test_crops_can_be_the_unit(cohort: CropsManifest, tmp_path: Path, trainable: str) -> None:
    module = data(cohort, unit="crop")
    net = model(trainable=trainable)
    trainer(tmp_path, max_steps=2).fit(net, module)
    assert module.sampling.units == len(module.train_rows)
    loader = module.train_dataloader()
    crops = loader.dataset
    assert isinstance(crops, FeatureRows) == (trainable == "head")
    assert len(crops) == len(module.train_rows)  # type: ignore[arg-type]
    rows = list(module.train_rows[:5])
    drawn = crops.__getitems__(rows)  # type: ignore[attr-defined]
    assert drawn.unit.tolist() == drawn.row.tolist()
    assert sorted(drawn.row.tolist()) == rows


def test_draws_have_the_right_labels_and_units(cohort: CropsManifest, tmp_path: Path) -> None:
    module = data(cohort)
    trainer(tmp_path, max_steps=2).fit(model(trainable="head"), module)
    rows = [row for unit in module.sampling.rows_of[1:3] for row in unit]
    features = module.train_dataloader().dataset.__getitems__(rows)  # type: ignore[attr-defined]
    images = module.train_dataset.__getitems__(rows)
    for one, two in zip(features[1:], images[1:], strict=True):
        assert torch.equal(one, two)
    assert images.malignant.tolist() == [int(cohort.crops[row].malignant) for row in rows]
    assert len(set(images.unit.tolist())) == 2
    empty = module.train_dataset.__getitems__([])
    assert empty.image.shape == (0, 1, 32, 32)


def test_keys_are_fresh_at_each_start(cohort: CropsManifest, tmp_path: Path) -> None:
    module = data(cohort)
    keys = set()
    for i in range(2):
        trainer(tmp_path / str(i), max_steps=1).fit(model(trainable="head"), module)
        keys.add(module.key)
    assert len(keys) == 2


def test_a_model_without_dp_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="DPCropsDataModule feeds CropClassifier"):
        trainer(tmp_path).fit(CropClassifier(**BODY), data(cohort))


def test_an_empty_training_split_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="split 'test' holds no crop"):
        trainer(tmp_path).fit(model(), data(cohort, train_split="test"))


def test_evaluation_is_that_of_the_plain_classifier(cohort: CropsManifest, tmp_path: Path) -> None:
    net, module = model(trainable="head"), data(cohort)
    trainer(tmp_path, limit_val_batches=1.0).fit(net, module)
    trainer(tmp_path).test(net, module)
    assert (tmp_path / "predictions.csv").exists()
    assert (tmp_path / "metrics.json").exists()


def test_training_learns_where_noise_is_small(cohort: CropsManifest, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = model(trainable="all", target_epsilon=1e5, learning_rate=0.02)
    module = data(cohort, rate=1.0, insecure_seed=1)
    trainer(tmp_path, max_steps=60).fit(net, module)
    with torch.no_grad():
        batch = module.train_dataset.__getitems__(module.train_rows)
        correct = (net.eval()(batch.image) > 0) == (batch.malignant == 1)
    assert correct.float().mean() > 0.9


@pytest.mark.parametrize("repeatable", [False, True])
def test_views_owe_nothing_to_a_public_seed(cohort: CropsManifest, repeatable: bool) -> None:
    """From one seeded stream, a patient's presence would shift the views of the next."""
    rows = cohort.rows("train")
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        crops = ViewedCrops(
            cohort,
            rows,
            views=2,
            unit="patient",
            image_size=None,
            augment="light",
            repeatable=repeatable,
        )
        drawn.append(crops.__getitems__(rows[:3]).image)
    assert torch.equal(*drawn) == repeatable
