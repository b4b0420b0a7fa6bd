"""``import mammo_dp`` with a network and data of one's own, and the public names."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

import mammo_dp
from mammo_dp.privacy.training import datamodule
from tests.python_example import MyNetwork, main, my_data

LIGHT = (
    *("PrivacyBudget", "Mechanism", "compose", "risk_of", "TradeOff"),
    *("PrivacyStatement", "read_statements", "calibrate_noise", "PrivacyError"),
)


def test_forty_lines_train_an_own_network_on_own_data(capsys: pytest.CaptureFixture[str]) -> None:
    model = main()
    assert 0 < model.spent_epsilon <= 6
    assert model.accounted_steps == 60
    assert "epsilon" in capsys.readouterr().out
    curve = mammo_dp.compose(model.mechanisms)
    assert curve.epsilon(1e-3) == model.spent_epsilon
    assert 0 < mammo_dp.risk_of(curve).advantage < 1
    data, patients = my_data()
    assert len(data) > len(set(patients))
    inputs, labels = data.tensors
    with torch.no_grad():
        right = ((model.net(inputs).squeeze(1) > 0) == (labels > 0)).float().mean()
    assert right > 0.7  # it learns


def test_own_data_are_checked() -> None:
    data, patients = my_data()
    with pytest.raises(mammo_dp.PrivacyError, match="Name the patient of each"):
        mammo_dp.DPDataModule(data, patients[1:])
    with pytest.raises(mammo_dp.PrivacyError, match=r"rate=2"):
        mammo_dp.DPDataModule(data, patients, rate=2)
    sequences = torch.utils.data.TensorDataset(torch.zeros(4, 5, 6), torch.zeros(4))
    with pytest.raises(mammo_dp.PrivacyError, match=r"shape \(5, 6\)"):
        mammo_dp.DPDataModule(sequences, "aabb").setup("fit")
    with pytest.raises(mammo_dp.PrivacyError, match="DPDataModule feeds NoneType"):
        mammo_dp.DPDataModule(data, patients).train_dataloader()


def test_examples_of_a_patient_are_drawn_together() -> None:
    data, patients = my_data()
    module = mammo_dp.DPDataModule(data, patients)
    assert [len(rows) for rows in module.sampling.rows_of] == [2] * 200
    draws = datamodule._Draws(data, module.sampling, (8,))
    batch = draws.__getitems__([2, 3, 398, 399])
    assert batch.unit.tolist() == [1, 1, 199, 199]
    assert batch.malignant.tolist() == data.tensors[1][batch.row].tolist()
    assert draws.__getitems__([]).image.shape == (0, 8)
    assert module.sampling.expected_units == 50


def test_every_public_name_is_there_and_documented() -> None:
    assert set(mammo_dp.MODULES) == set(mammo_dp.__all__)
    assert set(mammo_dp.__all__) <= set(dir(mammo_dp))
    for name in mammo_dp.__all__:
        found = getattr(mammo_dp, name)
        text = inspect.getdoc(found)
        assert text, name
        if inspect.isfunction(found) and len(inspect.signature(found).parameters) > 1:
            assert "Args:" in text or name == "membership_auc", name
    with pytest.raises(AttributeError, match="nothing"):
        mammo_dp.nothing  # noqa: B018


def test_accounting_and_statements_need_no_torch() -> None:
    code = (
        "import sys, mammo_dp\n"
        f"for name in {LIGHT!r}:\n"
        "    getattr(mammo_dp, name)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_attacks_take_arrays() -> None:
    rng = np.random.default_rng(0)
    examples, models = 400, 16
    inside = np.array([rng.permutation(models) < models // 2 for _ in range(examples)]).T
    member = rng.random(examples) < 0.5
    hard = rng.normal(0, 2, examples)  # some examples are hard for every model

    def answered(knew: np.ndarray) -> np.ndarray:
        logits = rng.normal(hard + 1.5 * knew, 1)
        return -np.logaddexp(0, -logits)

    target, own = answered(member), answered(inside)
    areas = {
        name: mammo_dp.membership_auc(scores[member], scores[~member]).value
        for name, scores in {
            "loss": mammo_dp.loss_scores(target),
            "lira": mammo_dp.lira_scores(target, own, inside),
            "lira offline": mammo_dp.lira_scores(target, own, inside, online=False),
            "rmia": mammo_dp.rmia_scores(target, own, inside),
        }.items()
    }
    assert 0.6 < areas["loss"] < min(areas["lira"], areas["lira offline"], areas["rmia"])
    scores = mammo_dp.lira_scores(target, own, inside)
    found = mammo_dp.one_run_epsilon(
        scores[member], scores[~member], guessed_in=50, guessed_out=50, delta=1e-5
    )
    assert 0 < found.epsilon < found.ceiling
    units, sums = mammo_dp.sum_by_unit([1.0, 2.0, 4.0], ["b", "a", "b"])
    assert (units.tolist(), sums.tolist()) == (["a", "b"], [2.0, 5.0])
    assert np.isfinite(mammo_dp.loss_scores([0.0, -1e9])).all()


def test_attacks_name_what_does_not_fit() -> None:
    target, own = -np.ones(3), -np.ones((2, 3))
    inside = np.array([[True, False, True], [False, True, True]])
    with pytest.raises(ValueError, match="natural logarithms"):
        mammo_dp.loss_scores([0.5])
    with pytest.raises(ValueError, match=r"\(examples,\)"):
        mammo_dp.rmia_scores(target, own, inside.T)
    with pytest.raises(ValueError, match="all models knew"):
        mammo_dp.rmia_scores(target, own, inside)
    with pytest.raises(ValueError, match="on either side"):
        mammo_dp.lira_scores(target, own, inside)
    with pytest.raises(ValueError, match="that did not know it"):
        mammo_dp.lira_scores(target, own, inside, online=False)
    assert MyNetwork().net


def test_spelling_does_not_make_two_patients_of_one() -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(4, 8), torch.zeros(4))
    module = mammo_dp.DPDataModule(data, ["P-01", "p_01", " P01", "P-2"])
    assert module.sampling.rows_of == ((0, 1, 2), (3,))
    with pytest.raises(mammo_dp.PrivacyError, match="patient of example 3 has no letter"):
        mammo_dp.DPDataModule(data, [*"abc", "-"])


@pytest.mark.parametrize(
    ("patients", "message"),
    [
        (torch.tensor([1, 1, 2, 2]), "example 0 is a Tensor"),  # no tensor equals another
        (np.array([1.0, np.nan, np.nan, 2.0]), "example 0 is a float"),
        ([None, None, "a", "b"], "example 0 is a NoneType"),
        ([("a", 1), ("A", 1), ("b", 1), ("b", 2)], "example 0 is a tuple"),
        ([12, "12", "a", "012"], "example 0 and example 3: patient ids that differ in"),
        (["1-11", "11-1", "a", "b"], "example 0 and example 1: patient ids that differ in"),
    ],
)
def test_patients_that_nothing_tells_apart_are_refused(patients: object, message: str) -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(4, 8), torch.zeros(4))
    with pytest.raises(mammo_dp.PrivacyError, match=message):
        mammo_dp.DPDataModule(data, patients)  # type: ignore[arg-type]


def test_a_number_names_the_patient_that_its_text_does() -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(4, 8), torch.zeros(4))
    module = mammo_dp.DPDataModule(data, [12, "12", np.int64(12), "B 12"])  # type: ignore[list-item]
    assert module.sampling.rows_of == ((0, 1, 2), (3,))
