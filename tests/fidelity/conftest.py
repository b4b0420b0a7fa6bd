from collections.abc import Iterator
from pathlib import Path

import pytest

from mammo_dp.fidelity import agreement, controllability, features
from mammo_dp.fidelity.features import Recipe


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Feature space and reader from few phantoms, made once a session; the cache folder."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(features.CACHE_VARIABLE, str(cache))
        patch.setattr(features, "Recipe", tiny_recipe)
        patch.setattr(controllability, "TAUGHT", 60)
        patch.setattr(controllability, "JUDGED", 40)
        patch.setattr(controllability, "TAUGHT_VOLUMES", 30)
        patch.setattr(controllability, "JUDGED_VOLUMES", 20)
        yield cache


@pytest.fixture(scope="session", autouse=True)
def _few_phantoms() -> Iterator[None]:
    """The features of the default classifier are whitened on 200 phantoms, not on 1,000."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "_PHANTOMS", 100)
        yield


def tiny_recipe(size: int = 32) -> Recipe:
    return Recipe(size=size, per_class=32, held_out=8, epochs=1, dimension=8)
