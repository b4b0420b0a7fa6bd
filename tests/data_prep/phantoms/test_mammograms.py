from dataclasses import replace

import numpy as np

from data_prep.phantoms.case import draw_case
from data_prep.phantoms.mammograms import Lesion, draw_mammogram
from data_prep.phantoms.parameters import MarginShares, PhantomParameters


def test_right_breasts_face_left_and_oblique_views_show_muscle() -> None:
    plain = replace(
        PhantomParameters(),
        subtleties=(0.0, 0.0, 0.0, 0.0, 1.0),
        size_range=(0.31, 0.31),
        margins=MarginShares(
            circumscribed=(1.0, 1.0),
            obscured=(0.0, 0.0),
            ill_defined=(0.0, 0.0),
            microlobulated=(0.0, 0.0),
            spiculated=(0.0, 0.0),
        ),
    )
    case = draw_case(np.random.default_rng(0), malignant=False, parameters=plain)
    lesion = Lesion(case=case, depth=0.5, side=0.2)

    def draw(view: str, laterality: str) -> tuple[np.ndarray, np.ndarray]:
        mammogram = draw_mammogram(
            np.random.default_rng(0),
            (320, 256),
            view=view,  # type: ignore[arg-type]
            laterality=laterality,  # type: ignore[arg-type]
            density=2,
            lesions=[lesion],
            parameters=PhantomParameters(),
        )
        return mammogram.film, mammogram.masks[0]

    left, mask = draw("CC", "L")
    assert left[60:, :20].mean() > 10 * left[60:, -20:].mean()
    right, mirrored = draw("CC", "R")
    assert np.array_equal(mask, mirrored[:, ::-1])
    assert right[60:, -20:].mean() > 10 * right[60:, :20].mean()
    for view, brighter in (("MLO", True), ("CC", False)):
        film = draw(view, "L")[0]
        assert (film[90:120, 3:15].mean() > film[210:240, 3:15].mean() + 0.1) == brighter
    ring = ~mask & (np.abs(np.indices(mask.shape)[0] - np.argwhere(mask)[:, 0].mean()) < 30)
    assert left[mask].mean() > left[ring & (left > 0.2)].mean()
