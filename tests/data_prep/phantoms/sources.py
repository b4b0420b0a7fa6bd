import numpy as np

from data_prep.phantoms.case import draw_case
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.phantoms.texture import Details, Texture

CASE = draw_case(np.random.default_rng(0), malignant=True, parameters=PhantomParameters())


def sources(count: int) -> list[Details]:
    return [Details(Texture((seed,))) for seed in range(count)]
