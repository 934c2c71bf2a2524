"""The README's numbers are the committed tables' numbers, and its worked example is what torch computes."""

import re

import pytest
import torch
from helpers.project import PROJECT

from normstudy.config import TrainConfig
from normstudy.model import NORMS, DigitNet, count_parameters

README = (PROJECT / "README.md").read_text()
NORMALISATION = (PROJECT / "docs" / "normalisation.md").read_text()
X = torch.tensor([[[[1, 3]], [[2, 6]], [[0, 8]], [[4, 8]]], [[[5, 7]], [[1, 1]], [[2, 2]], [[3, 9]]]]).double()
SHARED = {  # the activations that share statistics with the very first, by the definitions
    "BatchNorm": ("bn", X[:, 0]),
    "GroupNorm": ("gn", X[0, :2]),
    "LayerNorm": ("ln", X[0]),
    "InstanceNorm": ("in", X[0, 0]),
}


def test_every_test_that_the_page_on_reliability_names_is_there() -> None:
    page = (PROJECT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(test_\w+)\.py(?:::(\w+))?`", page)
    assert len(named) > 30
    for file, test in named:
        text = (PROJECT / "tests" / f"{file}.py").read_text()
        assert f"\ndef {test}(" in text if test else "def test_" in text, (file, test)


def test_readme_is_short_enough_to_be_read() -> None:
    assert len(README.encode()) <= 9_000
    assert len(README.split()) <= 1_400


def test_parameters_and_settings_named_in_the_text_are_the_real_ones() -> None:
    assert f"{count_parameters(DigitNet('gn')):,} parameters" in README
    commands = (PROJECT / "docs" / "commands.md").read_text()
    assert all(f"`{name}`" in commands for name in TrainConfig.model_fields)


@pytest.mark.parametrize("name", SHARED)
def test_worked_example_is_what_torch_computes(name: str) -> None:
    norm, shared = SHARED[name]
    layer = NORMS[norm](4, groups=2).double()
    trained = layer(X)[0, 0, 0, 0].item()
    layer.eval()
    evaluated = layer(X)[0, 0, 0, 0].item()
    mean, variance = shared.mean().item(), shared.var(unbiased=False).item()
    assert trained == pytest.approx((1 - mean) / (variance + 1e-5) ** 0.5)
    values = ", ".join(f"{value:g}" for value in shared.flatten())
    assert f"| {name} | {values} | {mean:.3f} | {variance:.3f} | {trained:.3f} | {evaluated:.3f} |" in NORMALISATION


def test_worked_example_shows_the_tensor_it_computes_with() -> None:
    for image in range(2):
        cells = " | ".join(f"{a:g}, {b:g}" for a, b in X[image, :, 0].tolist())
        assert f"| image {image} | {cells} |" in NORMALISATION


def test_example_of_the_readme_is_what_torch_computes() -> None:
    first, second = X[0, :2, 0].tolist()
    normalised = NORMS["gn"](4, groups=2).double()(X)[0, 0, 0, 0].item()
    text = " ".join(README.split())
    assert f"holds {first[0]:g}, {first[1]:g} and {second[0]:g}, {second[1]:g}. " in text
    assert f"mean is {X[0, :2].mean().item():.3f} and its variance {X[0, :2].var(unbiased=False).item():.3f}" in text
    assert f"/ √3.5 = {normalised:.3f}." in text


def test_running_averages_of_the_worked_example() -> None:
    layer = NORMS["bn"](4, groups=2).double()
    layer(X)
    state = layer.state_dict()
    text = " ".join(NORMALISATION.split())
    assert f"= {state['running_mean'][0]:.1f}, its running" in text
    assert f"= {state['running_var'][0]:.3f}, so y" in text
