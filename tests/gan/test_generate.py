# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data_prep.crop_image import save_crop_image
from data_prep.manifest import CropsManifest
from data_prep.phantoms.crops import write_phantom_crops
from gan import generate as module
from gan.checkpoint import CheckpointError, TrainedGenerator, draw
from gan.conditions import ConditionError
from gan.generate import GenerationError, generate
from gan.module import MCGAN
from mammo_dp.main import main
from tests.gan.checkpoints import save
from tests.started import Started


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = MCGAN(image_size=16, channels=2, latent=8, conditions=["margin", "view"])
    with torch.no_grad():  # tells the averaged generator from the trained one
        for value in net.average.module.parameters():
            value.mul_(1.5)
    return save(tmp_path_factory.mktemp("mcgan") / "last.ckpt", net)


def pixels(folder: Path) -> np.ndarray[Any, Any]:
    manifest = CropsManifest.read(folder)
    return manifest.images(manifest.rows()).astype(np.int64)


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}


def test_manifest_is_valid_and_names_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    generate(str(checkpoint), str(tmp_path), per_class=5, batch_size=4)
    manifest = CropsManifest.read(tmp_path)
    assert len(manifest.crops) == 10
    assert sum(crop.malignant for crop in manifest.crops) == 5
    sha256 = TrainedGenerator.read(checkpoint).sha256
    assert {crop.origin for crop in manifest.crops} == {f"gan:{sha256}"}
    assert {crop.crop_rule for crop in manifest.crops} == {"centred"}
    assert all(crop.is_synthetic and crop.label_source == "generator" for crop in manifest.crops)
    assert all(not crop.attributes and crop.view is None for crop in manifest.crops)
    assert len({crop.sha256 for crop in manifest.crops}) == 10
    assert manifest.images(manifest.rows()).shape == (10, 16, 16)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["crops.csv", "generate.json", "images"]
    assert len(list((tmp_path / "images").iterdir())) == 10


def test_crops_are_those_of_the_averaged_generator(checkpoint: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"seed": 7, "truncation": 0.5, "guidance": 3.0}
    asked = {"margin": "SPICULATED"}
    generate(str(checkpoint), str(tmp_path), per_class=2, attributes=asked, **settings)
    net = MCGAN.load_from_checkpoint(checkpoint, weights_only=True)
    for number, crop in enumerate(pixels(tmp_path)):
        latent, noise = draw(net.generator, number, seed=7)
        condition = net.conditions.vector(malignant=number % 2 == 1, attributes=asked)
        assert condition[:2].tolist() == ([0, 1] if number % 2 else [1, 0])
        condition[:2] = torch.tensor([-1.0, 2.0] if number % 2 else [2.0, -1.0])
        expected = net(0.5 * latent[None], noise[None], condition[None])[0, 0]
        grey = (expected.detach().double().numpy() + 1) / 2 * 65535
        assert np.abs(grey - crop).max() < 2


def test_crops_that_are_too_dark_are_drawn_again_and_the_others_stay(
    checkpoint: Path, tmp_path: Path
) -> None:
    generate(str(checkpoint), str(tmp_path / "all"), per_class=20)
    plain = pixels(tmp_path / "all")
    grey = plain.mean(axis=(1, 2)) / 65535
    limit = float(np.quantile(grey, 0.4))
    for name, batch in (("kept", 16), ("other", 7)):
        generate(
            str(checkpoint), str(tmp_path / name), per_class=20, darkest=limit, batch_size=batch
        )
    kept = pixels(tmp_path / "kept")
    assert kept.mean(axis=(1, 2)).min() >= 65535 * limit
    bright = grey >= limit
    assert 20 < bright.sum() < 30
    assert np.abs(kept[bright] - plain[bright]).max() <= 1
    assert (np.abs(kept[~bright] - plain[~bright]).max(axis=(1, 2)) > 100).all()
    assert np.abs(pixels(tmp_path / "other") - kept).max() <= 1
    net = TrainedGenerator.read(checkpoint)
    number = int(np.flatnonzero(~bright)[0])
    again = draw(net.net, number, 0, attempt=1)
    assert not torch.equal(again[0], draw(net.net, number, 0)[0])
    with pytest.raises(CheckpointError, match=r"crop 0: is darker than darkest=0\.999 in 20 draws"):
        generate(str(checkpoint), str(tmp_path / "none"), per_class=1, darkest=0.999)


def test_crops_depend_on_what_is_asked_for_but_not_on_batches(
    checkpoint: Path, tmp_path: Path
) -> None:
    def crops(name: str, **settings: Any) -> np.ndarray[Any, Any]:
        generate(str(checkpoint), str(tmp_path / name), per_class=4, **settings)
        return pixels(tmp_path / name)

    base = crops("base", batch_size=8)
    assert np.array_equal(base, crops("again", batch_size=8))
    assert np.abs(base - crops("batches", batch_size=3)).max() <= 1
    others: dict[str, Any] = {"seed": 1, "guidance": 4.0, "attributes": {"margin": "SPICULATED"}}
    for name, value in others.items():
        assert np.abs(base - crops(name, batch_size=8, **{name: value})).max() > 100
    calmer = crops("truncated", truncation=0.1, batch_size=8)
    wilder = crops("varied", truncation=2.0, batch_size=8)
    spread = [some[::2].std(axis=0).mean() for some in (calmer, base, wilder)]
    assert spread[0] < 0.75 * spread[1] < 0.75 * 0.9 * spread[2]


def test_what_was_asked_for_stands_in_each_row(checkpoint: Path, tmp_path: Path) -> None:
    asked = {"margin": "SPICULATED", "view": "MLO"}
    generate(str(checkpoint), str(tmp_path), per_class=1, attributes=asked)
    for crop in CropsManifest.read(tmp_path).crops:
        assert (dict(crop.attributes), crop.view) == ({"margin": "SPICULATED"}, "MLO")
    assert json.loads((tmp_path / "generate.json").read_text())["attributes"] == asked


def test_drawn_attributes_are_those_of_phantoms_and_what_is_given_stays(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Names the change by which it fails: one draw for all crops, or a draw from elsewhere."""
    drawn, fixed, flat = (tmp_path / name for name in ("drawn", "fixed", "phantoms"))
    generate(str(checkpoint), str(drawn), per_class=6, draw_attributes=True, seed=5, batch_size=5)
    asked = {"view": "CC"}
    generate(
        str(checkpoint), str(fixed), per_class=6, attributes=asked, draw_attributes=True, seed=5
    )
    phantoms = write_phantom_crops(flat, per_class=6, size=16, seed=5, workers=1)
    for one, other, phantom in zip(
        CropsManifest.read(drawn).crops,
        CropsManifest.read(fixed).crops,
        phantoms.crops,
        strict=True,
    ):
        margin = {"margin": phantom.attributes["margin"]}
        assert (dict(one.attributes), one.view) == (margin, phantom.view)
        assert (dict(other.attributes), other.view) == (margin, "CC")
    assert len({crop.attributes["margin"] for crop in phantoms.crops}) > 1
    net = MCGAN.load_from_checkpoint(checkpoint, weights_only=True)
    crop = CropsManifest.read(drawn).crops[7]
    latent, noise = draw(net.generator, 7, seed=5)
    given = {**crop.attributes, "view": str(crop.view)}
    condition = net.conditions.vector(malignant=True, attributes=given)
    expected = net(latent[None], noise[None], condition[None])[0, 0]
    grey = (expected.detach().double().numpy() + 1) / 2 * 65535
    assert np.abs(grey - pixels(drawn)[7]).max() < 2


def test_without_attributes_none_are_drawn(tmp_path: Path) -> None:
    path = save(tmp_path / "last.ckpt", MCGAN(image_size=16, channels=2, latent=8))
    with pytest.raises(GenerationError, match=r"draw_attributes: .* trained with malignancy only"):
        generate(str(path), str(tmp_path / "out"), per_class=1, draw_attributes=True)


def slowly(checkpoint: str, out: str) -> None:
    """Or it ends before it can be killed."""

    def save(path: Path, pixels: NDArray[np.uint16]) -> str:
        time.sleep(0.01)
        return save_crop_image(path, pixels)

    setattr(module, "save_crop_image", save)  # noqa: B010 - it is imported there
    generate(checkpoint, out, per_class=60, batch_size=16)


def test_a_killed_run_ends_with_the_same_crops(checkpoint: Path, tmp_path: Path) -> None:
    generate(str(checkpoint), str(tmp_path / "whole"), per_class=60, batch_size=16)
    out = tmp_path / "killed"
    process = Started(slowly, str(checkpoint), str(out), log=tmp_path / "log.txt")
    while process.poll() is None and len(list(out.glob("images/*.png"))) < 20:
        time.sleep(0.002)
    assert process.kill() == -signal.SIGKILL, process.said()
    kept = written_at(out)
    assert 20 <= len(list(out.glob("images/*.png"))) < 120
    assert not (out / "crops.csv").exists()
    generate(str(checkpoint), str(out), per_class=60, batch_size=16)
    assert (out / "crops.csv").read_bytes() == (tmp_path / "whole" / "crops.csv").read_bytes()
    assert len(list((out / "images").iterdir())) == 120
    assert len({crop.sha256 for crop in CropsManifest.read(out).crops}) == 120
    again = written_at(out)
    assert sum(again.get(name) == time_ns for name, time_ns in kept.items()) >= 19


@pytest.fixture
def half(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of eight crops whose making stopped after two batches of two."""

    def stop(start: int) -> None:
        if start == 4:
            raise KeyboardInterrupt

    crops = TrainedGenerator.crops

    def interrupted(self: TrainedGenerator, condition: torch.Tensor, **values: Any) -> Any:  # noqa: ANN401
        stop(values["start"])
        return crops(self, condition, **values)

    with monkeypatch.context() as patch:
        patch.setattr(TrainedGenerator, "crops", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(str(checkpoint), str(tmp_path / "half"), per_class=4, batch_size=2)
    return tmp_path / "half"


def test_whole_crops_are_kept_and_others_drawn_again(checkpoint: Path, half: Path) -> None:
    kept = written_at(half)
    assert len(kept) == 4
    first, second, third, _ = sorted((half / "images").iterdir())
    first.write_bytes(first.read_bytes()[:-20])  # cut off
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(second)  # of somebody else
    third.unlink()
    with (half / "drawn.csv").open("ab") as table:
        table.write(b"6,\xff\n7,00")  # lines that a power cut damaged and a kill cut off
    generate(str(checkpoint), str(half), per_class=4, batch_size=2)
    crops = CropsManifest.read(half).crops
    assert len({crop.sha256 for crop in crops}) == len(crops) == 8
    assert len(pixels(half)) == 8
    same = {name for name, time_ns in written_at(half).items() if kept.get(name) == time_ns}
    assert same == {"000003_malignant.png"}
    assert not (half / "drawn.csv").exists()


def test_an_image_that_is_not_listed_is_drawn_again(checkpoint: Path, half: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(half / "images" / "000006_benign.png")
    (half / "images" / "000005_malignant.png.part").write_bytes(b"half a PNG")
    generate(str(checkpoint), str(half), per_class=4, batch_size=2)
    assert pixels(half).std(axis=(1, 2)).min() > 0
    assert not list((half / "images").glob("*.part"))


def test_a_whole_folder_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    generate(str(checkpoint), str(tmp_path), per_class=2)
    before = written_at(tmp_path), (tmp_path / "crops.csv").stat().st_mtime_ns
    generate(str(checkpoint), str(tmp_path), per_class=2)
    assert (written_at(tmp_path), (tmp_path / "crops.csv").stat().st_mtime_ns) == before


@pytest.mark.parametrize("content", ["", "{", "3"])
def test_settings_that_were_cut_off_are_named(checkpoint: Path, half: Path, content: str) -> None:
    (half / "generate.json").write_text(content)
    with pytest.raises(GenerationError, match=r"generate\.json: does not say what"):
        generate(str(checkpoint), str(half), per_class=4)


def test_a_command_takes_up_no_crops_of_another_generator(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its statement would speak of the wrong one."""
    other = save(tmp_path / "other.ckpt", MCGAN(image_size=16, channels=2, latent=8))
    write = CropsManifest.write

    def interrupted(at: str, weights: Path, *, stop: bool) -> None:
        def stopped(folder: Path, rows: Any) -> Any:  # noqa: ANN401
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(CropsManifest, "write", stopped if stop else write)
            words = ["generate", "--checkpoint", str(weights), "--per_class", "4"]
            assert main([*words, "--out", str(tmp_path / at)]) == (130 if stop else 0)

    for at, weights in (("theirs", other), ("ours", checkpoint)):
        interrupted(at, weights, stop=True)
    kept = written_at(tmp_path / "ours")
    interrupted("ours", checkpoint, stop=True)
    assert written_at(tmp_path / "ours") == kept  # lines of the same command are relied on

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    shutil.rmtree(ours / "images")
    shutil.copytree(theirs / "images", ours / "images")
    shutil.copyfile(theirs / "drawn.csv", ours / "drawn.csv")
    interrupted("theirs", other, stop=False)
    shutil.copyfile(theirs / "crops.csv", ours / "crops.csv")
    interrupted("ours", checkpoint, stop=False)
    generate(str(checkpoint), str(tmp_path / "whole"), per_class=4)
    assert np.array_equal(pixels(ours), pixels(tmp_path / "whole"))
    assert {crop.origin for crop in CropsManifest.read(ours).crops} == {
        crop.origin for crop in CropsManifest.read(tmp_path / "whole").crops
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": 1}, "per_class: 4, now 1"),
        ({"seed": 1}, "seed: 0, now 1"),
        ({"guidance": 2.0}, r"guidance: 1.0, now 2.0"),
        ({"truncation": 0.5}, r"truncation: 1.0, now 0.5"),
        ({"attributes": {"view": "CC"}}, r"attributes: {}, now {'view': 'CC'}"),
    ],
)
def test_a_folder_of_other_settings_is_refused(
    checkpoint: Path, half: Path, settings: dict[str, Any], message: str
) -> None:
    before = written_at(half)
    with pytest.raises(GenerationError, match=f"made with other settings .{message}"):
        generate(str(checkpoint), str(half), **({"per_class": 4} | settings))
    assert written_at(half) == before


def test_folders_with_other_crops_are_refused(
    checkpoint: Path, tmp_path: Path, cohort: CropsManifest
) -> None:
    with pytest.raises(GenerationError, match=r"holds crops, but no generate.json. Choose another"):
        generate(str(checkpoint), str(cohort.folder), per_class=1)
    other = save(tmp_path / "other.ckpt", MCGAN(image_size=16, channels=2, latent=8))
    generate(str(other), str(tmp_path / "out"), per_class=1)
    with pytest.raises(GenerationError, match=r"checkpoint: '[0-9a-f]{64}', now"):
        generate(str(checkpoint), str(tmp_path / "out"), per_class=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": 0}, "per_class=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"truncation": 0.0}, "truncation=0.0. Give a number above 0, at most 2"),
        ({"truncation": 2.1}, "truncation=2.1"),
        ({"darkest": 1.0}, "darkest=1.0. Give a number from 0 to below 1"),
        ({"darkest": -0.1}, "darkest=-0.1"),
        ({"guidance": -0.5}, "guidance=-0.5. Give 0 or more"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"guidance": float("inf")}, "guidance=inf"),
        (
            {"attributes": {"density": "1"}},
            r"\['density'\] cannot be asked for: the generator was trained with margin, view",
        ),
        ({"attributes": {"malignancy": "maybe"}}, r"\['malignancy'\] cannot be asked for"),
        ({"attributes": {"margin": "SPIKY"}}, "margin='SPIKY' is unknown. Allowed: OTHER, CIRCUM"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((GenerationError, ConditionError), match=message):
        generate(str(checkpoint), str(tmp_path), **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_stops_the_run(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: Any) -> str:  # noqa: ANN401
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("gan.generate.save_crop_image", full)
    with pytest.raises(OSError, match=r"No space left on device.*images/000000_benign.png"):
        generate(str(checkpoint), str(tmp_path), per_class=1)
    assert not (tmp_path / "crops.csv").exists()


def test_a_wrong_request_is_one_sentence_on_the_command_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["generate", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    words = ["--attributes.margin", "SPICULATED", "--attributes.density", "1"]
    assert main([*ask, *words]) == 1
    assert "['density'] cannot be asked for" in capsys.readouterr().err
    assert main([*ask[:-1], str(tmp_path / "none"), "--per_class", "0"]) == 1
    assert "per_class=0" in capsys.readouterr().err
