# SPDX-License-Identifier: Apache-2.0
import re

from mammo_dp.report.checklist import answers, nist, tripod
from mammo_dp.report.page import TITLES


def test_all_items_of_tripod_ai_stand_in_order_once() -> None:
    numbers = [item.number for item in tripod(TITLES.keys())]
    assert len(set(numbers)) == len(numbers) == 52
    leading = [int(re.sub(r"\D", "", number)) for number in numbers]
    assert leading == sorted(leading)
    assert set(leading) == set(range(1, 28))


def test_an_item_is_answered_by_a_section_of_the_page_or_says_why_not() -> None:
    for present in (TITLES.keys(), {"summary", "statement"}):
        for item in (*tripod(present), *nist(present)):
            assert set(item.sections) <= set(present)
            assert item.note
    assert next(i for i in tripod({"summary"}) if i.number == "14").sections == ()


def test_the_factors_of_the_pyramid_are_all_there() -> None:
    topics = " ".join(item.topic.lower() for item in nist(TITLES.keys()))
    for factor in (
        "ε",
        "unit of privacy",
        "algorithms and correctness",
        "utility",
        "bias",
        "access control",
        "trust model",
        "side channels",
        "data collection exposure",
    ):
        assert factor in topics


def test_a_heading_names_the_items_that_its_section_answers() -> None:
    assert answers("statement").startswith("NIST SP 800-226: Privacy parameters ε and δ")
    assert "TRIPOD+AI 12e, 15, 23a" in answers("calibration")
    assert answers("checklists") == ""
