from collections.abc import Iterator
from pathlib import Path

import pytest

from mammo_dp.fidelity import encoder, extractors


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The default feature space from a tiny recipe, made once a session; its cache folder."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(encoder.CACHE_VARIABLE, str(cache))
        patch.setattr(extractors, "Recipe", tiny_recipe)
        yield cache


def tiny_recipe(size: int = 32) -> encoder.Recipe:
    return encoder.Recipe(size=size, per_class=32, held_out=8, epochs=1, dimension=8)
