"""The norms against first principles and torch; the net and its budget."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from normstudy.model import (
    CLASSES,
    NETWORKS,
    NORMS,
    DigitNet,
    Skip,
    count_parameters,
    l1_norms,
    penalised_weights,
    stacked,
    unstacked,
)

CHANNELS, GROUPS = 8, 4
# for each norm the groups of its reference, and the axes of the (N, groups, channels per group, H, W) view that share a
# mean and a variance: `ln` takes its statistics over all groups at once, `bn` and `in` keep every channel apart
REFERENCE = {
    "bn": (CHANNELS, (0, 3, 4)),
    "gn": (GROUPS, (2, 3, 4)),
    "ln": (1, (1, 2, 3, 4)),
    "in": (CHANNELS, (3, 4)),
}


def reference(name: str, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The formula, written out, in float64."""
    if name != "none":
        n, c, h, w = x.shape
        groups, axes = REFERENCE[name]
        grouped = x.view(n, groups, c // groups, h, w)
        mean = grouped.mean(dim=axes, keepdim=True)
        variance = ((grouped - mean) ** 2).mean(dim=axes, keepdim=True)
        x = ((grouped - mean) / (variance + 1e-5).sqrt()).view(n, c, h, w)
    return x * scale[:, None, None] + shift[:, None, None]


def layer_and_input(name: str) -> tuple[nn.Module, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    layer = NORMS[name](CHANNELS, groups=GROUPS).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(CHANNELS, generator=generator, dtype=torch.float64)
    x = 3 + 2 * torch.randn(5, CHANNELS, 4, 3, generator=generator, dtype=torch.float64)
    return layer, x


@pytest.mark.parametrize("name", NORMS)
def test_norm_follows_its_formula_in_values_and_gradients(name: str) -> None:
    layer, x = layer_and_input(name)
    weight, bias = layer.parameters()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = reference(name, theirs, weight, bias)
    torch.testing.assert_close(layer(ours), expected)
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = torch.autograd.grad((layer(ours) * cotangent).sum(), [ours, weight, bias])
    expected_gradients = torch.autograd.grad((expected * cotangent).sum(), [theirs, weight, bias])
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", NORMS)
def test_only_batch_norm_answers_otherwise_in_eval_mode(name: str) -> None:
    layer, x = layer_and_input(name)
    trained = layer(x)
    layer.eval()
    assert torch.allclose(layer(x), trained) == (name != "bn")


def test_batch_norm_in_eval_mode_uses_the_running_averages() -> None:
    layer, x = layer_and_input("bn")
    layer(x)
    weight, bias = layer.parameters()
    mean, variance = 0.1 * x.mean(dim=(0, 2, 3)), 0.9 + 0.1 * x.var(dim=(0, 2, 3), unbiased=True)
    normalised = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(layer.eval()(x), normalised * weight[:, None, None] + bias[:, None, None])


def test_ghost_batch_norm_takes_each_ghost_for_a_batch_and_averages_the_running_statistics() -> None:
    layer, _ = layer_and_input("bn")
    x = 3 + 2 * torch.randn(6, CHANNELS, 4, 3, dtype=torch.float64)
    ghosts = NORMS["bn"](CHANNELS, groups=GROUPS, ghost=2).double()
    ghosts.load_state_dict(layer.state_dict())
    parts, found = [], ghosts(x)
    for place in (0, 2, 4):
        alone = copy.deepcopy(layer)
        torch.testing.assert_close(found[place : place + 2], alone(x[place : place + 2]))
        parts.append(alone.state_dict())
    for name, value in ghosts.state_dict().items():
        torch.testing.assert_close(value, torch.stack([part[name].double() for part in parts]).mean(0).to(value))
    layer.load_state_dict(ghosts.state_dict())
    torch.testing.assert_close(ghosts.eval()(x), layer.eval()(x))


def test_group_norm_ends_at_layer_norm_and_instance_norm_and_layer_norm_is_torchs_over_chw() -> None:
    _, x = layer_and_input("gn")
    for groups, name in ((1, "ln"), (CHANNELS, "in")):
        torch.testing.assert_close(
            NORMS["gn"](CHANNELS, groups=groups).double()(x), NORMS[name](CHANNELS, groups=groups).double()(x)
        )
    layer = NORMS["ln"](CHANNELS, groups=GROUPS).double()
    torch.testing.assert_close(layer(x), functional.layer_norm(x, x.shape[1:], eps=1e-5))


PARAMETERS = {
    **{"plain": 7_522, "wide": 7_594, "skip": 7_522, "late": 7_970, "deep": 7_474, "deepskipless": 7_474},
    **{"small": 3_890, "narrow": 3_906, "narrowplain": 3_378, "fine": 3_770, "finer": 3_778, "finewide": 3_842},
    **{"finelarge": 7_986, "finelast": 7_698, "finedeep": 7_418},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_norm_gives_a_network_the_same_parameters_and_ten_logits(network: str) -> None:
    with torch.device("meta"):  # shapes alone
        models = [DigitNet(norm, network=network) for norm in NORMS]
        assert {model(torch.zeros(2, 1, 28, 28)).shape for model in models} == {(2, 10)}
    assert {count_parameters(model) for model in models} == {PARAMETERS[network]}


def test_skip_adds_its_input_and_leaves_it_as_it_is() -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before, block = x.clone(), nn.Conv2d(3, 3, 3, padding=1, bias=False)
    torch.testing.assert_close(Skip(block, nn.ReLU(inplace=True))(x), before + block(before).relu())
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NORMS)
def test_same_seed_gives_every_norm_the_same_convolutions(name: str) -> None:
    torch.manual_seed(5)
    expected = penalised_weights(DigitNet("bn"))
    torch.manual_seed(5)
    for weight, other in zip(penalised_weights(DigitNet(name)), expected, strict=True):
        assert torch.equal(weight, other)


@pytest.mark.parametrize(
    ("norm", "settings", "message"),
    [
        ("gn", {"groups": 3}, "groups=3 does not divide the 8 channels of a layer"),
        ("foo", {}, f"unknown norm 'foo'; choose from {', '.join(NORMS)}"),
        ("gn", {"network": "foo"}, f"unknown network 'foo'; choose from {', '.join(NETWORKS)}"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_the_value_and_the_choices(
    norm: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        DigitNet(norm, **settings)


def test_l1_norm_sums_convolution_and_linear_weights_or_all_parameters() -> None:
    model = DigitNet("bn")
    for name, parameter in model.named_parameters():
        parameter.data.fill_(-2.0 if parameter.ndim > 1 else -8.0)
        assert (parameter.ndim > 1) == any(parameter is weight for weight in penalised_weights(model)), name
    weights = 8 * 25 + 8 * 16 * 9 + 16 * 16 * 9 * 2 + 16 * 9 * 10
    assert l1_norms(model).tolist() == [2.0 * weights]
    assert l1_norms(model, on="linear").tolist() == [2.0 * 16 * 9 * 10]
    assert l1_norms(model, on="convolutions").tolist() == [2.0 * (weights - 16 * 9 * 10)]
    assert l1_norms(model, on="all").tolist() == [2.0 * weights + 8.0 * (count_parameters(model) - weights)]


STACKS = [  # the last two have skips
    *((norm, "plain", 0) for norm in NORMS),
    *(("bn", "plain", 2), ("bn", "narrow", 0), ("gn", "late", 0)),
]


def stack_of_three(norm: str, network: str, ghost: int = 0) -> tuple[DigitNet, list[DigitNet]]:
    """A stack and the networks in it, all in float64."""
    torch.manual_seed(0)
    networks = [DigitNet(norm, network=network, groups=2, ghost=ghost) for _ in range(3)]
    for one in networks:
        for parameter in one.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return stacked(networks).double(), [one.double() for one in networks]


@pytest.mark.parametrize(("norm", "network", "ghost"), STACKS)
def test_each_network_of_a_stack_computes_what_it_computes_alone_and_comes_back(
    norm: str, network: str, ghost: int
) -> None:
    together, alone = stack_of_three(norm, network, ghost)
    images = torch.randn(4, 3, 28, 28, dtype=torch.float64)
    logits = together(images)
    assert logits.shape == (4, 3, CLASSES)
    for place, (one, found) in enumerate(zip(alone, unstacked(together), strict=True)):
        torch.testing.assert_close(logits[:, place], one(images[:, place : place + 1]))
        assert (found.norm, found.network, found.groups, found.ghost) == (norm, network, 2, ghost)
        for name, value in one.state_dict().items():  # statistics, too
            torch.testing.assert_close(found.state_dict()[name], value.float() if value.ndim else value)
    for on in ("weights", "linear", "all"):
        expected = torch.stack([l1_norms(one, on=on)[0] for one in alone])
        torch.testing.assert_close(l1_norms(together, on=on, stack=3), expected)
