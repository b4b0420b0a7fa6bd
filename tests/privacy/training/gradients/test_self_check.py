import pytest
import torch
from torch import Tensor, nn

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.gradients import book_keeping as rules
from mammo_dp.privacy.training.gradients.book_keeping import Tape
from mammo_dp.privacy.training.gradients.methods import Method, build
from mammo_dp.privacy.training.gradients.self_check import (
    first_that_passes,
    refuse_side_effects,
    self_check,
)
from tests.privacy.training.gradients.nets import SIZE, Net, losses_of, timm_net

METHODS: tuple[Method, ...] = ("loop", "book_keeping", "opacus")


@pytest.mark.parametrize("method", METHODS)
def test_a_right_method_passes(method: Method) -> None:
    net = Net()
    sums = build(net, method, 2)
    self_check(net, sums, losses_of(net), (1, 8, 8))
    self_check(net, sums, losses_of(net), (2, 1, 8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        self_check(net, sums, losses_of(net), (1, 8, 8))
    assert net.training


class Adding(nn.Identity):
    """Keeps a sum of what it sees, as the running statistics of a norm are kept."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().sum()
        return x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Dropout(0.5), r"norm.1 \(Dropout\): random numbers come in turn.*drop_path_rate: 0"),
        (nn.RReLU(), "Net: random numbers come in turn"),
        (Adding(), "norm.1.seen: change with each pass and would be released without noise"),
    ],
)
def test_layers_that_draw_or_keep_something_are_refused_unless_they_rest(
    layer: nn.Module, message: str
) -> None:
    net = Net()
    refuse_side_effects(net, losses_of(net), (1, 8, 8))
    net.norm = nn.Sequential(net.norm, layer)  # type: ignore[assignment]
    with pytest.raises(PrivacyError, match=message):
        refuse_side_effects(net, losses_of(net), (1, 8, 8))
    if isinstance(layer, nn.Dropout | nn.RReLU):
        layer.eval()
        refuse_side_effects(net, losses_of(net), (1, 8, 8))


class Mixing(Net):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image - image.mean(0, keepdim=True) * (len(image) > 1))


class Windows(Net):
    """Linear layer that sees windows on the first axis, as Swin's attention does."""

    def forward(self, image: Tensor) -> Tensor:
        windows = image.reshape(-1, 16, 3)[:, 0] if image.shape[-1] == 12 else image
        return self.head(windows).view(len(image), -1).mean(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["book_keeping", "opacus"])
def test_layers_that_mix_samples_are_found(method: Method) -> None:
    net = Mixing()
    with pytest.raises(PrivacyError, match=r"Sums is off by .* Mixing"):
        self_check(net, build(net, method, 64), losses_of(net), (1, 8, 8))


@pytest.mark.parametrize("method", ["book_keeping", "opacus"])
def test_rows_that_are_no_samples_are_refused(method: Method) -> None:
    net = Windows()
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    sums = build(net, method, 64)
    with pytest.raises(PrivacyError, match=r"6 rows for 2 samples.*gradient_method: loop"):
        self_check(net, sums, losses_of(net), (1, 12, 12))
    sums.close()
    self_check(net, build(net, "loop", 64), losses_of(net), (1, 12, 12))


@pytest.mark.parametrize("half", [False, True])
def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    right = rules.linear

    def wrong(layer: nn.Linear, tape: Tape, x: Tensor, *, windows: bool = False) -> Tensor:
        return right(layer, tape, 1.3 * x, windows=windows)

    monkeypatch.setitem(rules.RULES, nn.Linear, wrong)
    net = timm_net("vit")
    sums = build(net, "book_keeping", 64)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
        pytest.raises(PrivacyError, match="BookKeepingSums is off by"),
    ):
        self_check(net, sums, losses_of(net), (1, SIZE, SIZE))


def test_the_first_method_that_passes_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    net = Windows()
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    with caplog.at_level("INFO"):
        method, sums = first_that_passes(
            net, ("book_keeping", "loop"), 8, losses_of(net), (1, 12, 12)
        )
    assert (method, type(sums).__name__) == ("loop", "LoopSums")
    assert "book_keeping does not fit this model: gradients: 6 rows" in caplog.text
    with pytest.raises(PrivacyError, match="6 rows for 2 samples"):
        first_that_passes(net, ("book_keeping",), 8, losses_of(net), (1, 12, 12))
