from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest
import torch
from torch import nn

from classifier.weights import LoadedWeights, WeightsError
from mammo_dp.fidelity import features
from mammo_dp.fidelity.features import (
    PhantomEncoder,
    cache_folder,
    choose,
    phantom_encoder,
    public_space,
    train_encoder,
)
from mammo_dp.fidelity.samples import FidelityError
from tests.fidelity.conftest import tiny_recipe


def test_an_encoder_is_trained_once_and_found_again(
    tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = phantom_encoder(tiny_recipe()), phantom_encoder(tiny_recipe())
    assert capsys.readouterr().out.count("Training") <= 1
    assert first.sha256 == second.sha256
    assert len(list(tiny_encoder.glob("phantom-encoder-*.pt"))) == 1


def test_features_depend_on_the_recipe_alone_and_leave_the_random_state() -> None:
    state = torch.random.get_rng_state()
    recipe = replace(tiny_recipe(), per_class=8)
    one, other = train_encoder(recipe), train_encoder(recipe)
    assert torch.equal(state, torch.random.get_rng_state())
    assert one.sha256 == other.sha256
    assert train_encoder(replace(recipe, seed=1)).sha256 != one.sha256


def test_a_saved_encoder_gives_the_same_features(tmp_path: Path, tiny_encoder: Path) -> None:
    made = phantom_encoder(tiny_recipe())
    made.save(tmp_path / "encoder.pt")
    images = np.random.default_rng(0).random((5, 32, 32), np.float32)
    again = PhantomEncoder.load(tmp_path / "encoder.pt")
    assert np.array_equal(made(images), again(images))
    assert made(images).shape == (5, 8)
    assert 0 <= again.phantom_auroc <= 1


def test_the_cache_follows_the_variable_and_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMMO_DP_CACHE", "/some/where")
    assert cache_folder() == Path("/some/where")
    monkeypatch.delenv("MAMMO_DP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/mammo_dp")


def test_two_feature_spaces_and_weights_without_a_model_are_refused() -> None:
    with pytest.raises(FidelityError, match="Choose one"):
        choose(32, encoder="a.ckpt", timm="vit_tiny_patch16_224")
    with pytest.raises(FidelityError, match="Name it with --timm"):
        choose(32, weights="a.pth")


def test_a_timm_model_with_a_file_is_a_feature_space(tmp_path: Path) -> None:
    import timm

    net = timm.create_model("test_vit3", img_size=32, in_chans=1, num_classes=1)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    found = choose(32, timm="test_vit3", weights=str(tmp_path / "weights.pth"))
    taken = found.features(np.zeros((3, 64, 64), np.float32))
    assert taken.shape == (3, net.num_features)
    assert len(found.sha256) == 64
    assert "test_vit3" in found.name


def test_without_the_weights_there_is_no_public_space_and_the_log_says_so(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(net: nn.Module, source: str) -> None:
        assert source == "package"
        raise WeightsError("weights=package: is not installed.")

    monkeypatch.setattr(features, "load_weights", absent)
    assert public_space(32) is None
    assert "No distances in a public feature space. weights=package" in caplog.text


def test_the_public_space_is_the_middle_of_the_network_in_components_of_phantoms(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(net: nn.Module, source: str) -> LoadedWeights:
        rng = torch.Generator().manual_seed(0)
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
        return LoadedWeights(path="package:some 1", sha256="ab" * 32, loaded=1)

    monkeypatch.setattr(features, "load_weights", torch.no_grad()(loaded))
    before = set(tiny_encoder.glob("public-space-*.pt"))
    first, second = public_space(32), public_space(32)
    assert first is not None
    assert second is not None
    assert len(set(tiny_encoder.glob("public-space-*.pt")) - before) == 1
    images = np.random.default_rng(0).random((3, 32, 32), np.float32)
    found = first.features(images)
    assert np.array_equal(found, second.features(images))
    assert found.shape == (3, tiny_recipe().dimension)
    assert "stages 4 and 5 at 32 px" in first.name
    assert first.sha256 == "ab" * 32

    net = features._Public(32).eval()
    loaded(net, "package")
    maps = net.public(torch.from_numpy(images)[:, None] * 2 - 1)
    for place, shown in enumerate(net.pooled(images)):
        naive = []
        for stage in maps:
            channels = [channel.flatten().tolist() for channel in stage[place]]
            naive += [fmean(channel) for channel in channels]
            naive += [pstdev(channel) for channel in channels]
        torch.testing.assert_close(shown, torch.tensor(naive), atol=1e-5, rtol=1e-4)
