# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
import yaml

from mammo_dp.benchmark.spec import BenchmarkError, Published, read_published
from mammo_dp.benchmark.write import draw

ENTRY: dict[str, Any] = {
    "source": "Somebody 2024",
    "url": "https://example.org",
    "data": "theirs",
    "unit": "image",
    "guarantee": "last stage",
    "regime": "DP",
    "auroc": {1: 0.5, 6: 0.57},
}


@pytest.mark.parametrize("auroc", [None, [0.5], {}, {0: 0.5}, {6: "high"}])
def test_numbers_that_no_axis_could_hold_are_refused(tmp_path: Path, auroc: object) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump([ENTRY]))
    assert read_published(path)[0].auroc == {1: 0.5, 6: 0.57}
    path.write_text(yaml.safe_dump([ENTRY | {"auroc": auroc}]))
    with pytest.raises(BenchmarkError, match="is no AUROC by epsilon"):
        read_published(path)


def test_no_published_series_is_left_out_of_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda *_, label="", **__: drawn.append(label))
    series = [Published(**ENTRY | {"regime": f"DP {number}"}) for number in range(5)]
    draw(tmp_path / "figure.png", [], {}, series)
    assert drawn == [f"published, per image: DP {number}" for number in range(5)]
