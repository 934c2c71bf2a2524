"""The configuration refuses what can't be, names it, and identifies a trial."""

from collections.abc import Sequence
from typing import Any, get_args

import pytest

from normstudy.config import TITLES, Network, Norm, TrainConfig, group_labels
from normstudy.errors import ConfigError
from normstudy.model import NETWORKS, NORMS
from normstudy.tracking.run import SOURCES


def test_the_choices_of_norm_network_and_dataset_are_the_rows_of_their_tables() -> None:
    assert get_args(Norm) == tuple(NORMS)
    assert get_args(Network) == tuple(NETWORKS)
    assert get_args(TrainConfig.model_fields["dataset"].annotation) == tuple(TITLES) == tuple(SOURCES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm": "foo"}, "norm=foo: input should be 'bn', 'gn', 'ln', 'in' or 'none'"),
        ({"network": "foo"}, "network=foo: input should be 'plain', 'wide', .* or 'finedeep'"),
        ({"epochs": "abc"}, "epochs=abc: .*valid integer"),
        ({"l1": "nan"}, "l1=nan: .*finite"),
        ({"device": "\x1b[2J"}, r"device='\\x1b\[2J': .*'auto'"),
        ({"seed": "9" * 5_000}, r"seed='9{12}\.\.\.9{13}': .*integer"),
        ({"a\nb": 1}, r"unknown setting 'a\\nb'; choose from norm, l1"),
        ({"batch_size": 60_001}, "batch_size 60001 is more than the 60000 training images"),
        ({"train_size": 100, "batch_size": 101}, "batch_size 101 is more than the 100 training images"),
        ({"val_size": 50_000, "train_size": 10_001}, "train_size 10001 is more than the 10000 images"),
    ],
)
def test_bad_value_is_refused_in_one_line_with_what_was_expected(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig.of(**values)
    assert str(caught.value).isprintable()


EDGES: dict[str, tuple[Sequence[float], Sequence[float]]] = {  # the lowest and highest taken, the first refused
    "l1": ([0], [-1e-9]),
    "groups": ([1], [0]),
    "epochs": ([1], [0]),
    "batch_size": ([2], [1]),
    "lr": ([1e-9], [0]),
    "momentum": ([0, 0.999], [-1e-9, 1]),
    "weight_decay": ([0], [-1e-9]),
    "warmup": ([1e-9, 0.999], [0, 1]),
    "rotation": ([0, 180], [-1e-9, 180.1]),
    "translation": ([0, 14], [-1e-9, 14.1]),
    "scale": ([0, 0.999], [-1e-9, 1]),
    "ema_decay": ([0, 0.999], [-1e-9, 1]),
    "seed": ([0, 2**31 - 1], [-1, 2**31]),
    "val_size": ([0, 59_968], [-1, 60_000]),
    "train_size": ([0, 60_000], [-1, 60_001]),
    "threads": ([1, 256], [0, 257]),
}


@pytest.mark.parametrize("name", EDGES)
def test_each_number_has_its_bounds(name: str) -> None:
    for value in EDGES[name][0]:
        TrainConfig.of(**{name: value})
    for value in EDGES[name][1]:
        with pytest.raises(ConfigError, match=f"^{name}="):
            TrainConfig.of(**{name: value})


@pytest.mark.parametrize(
    "values",
    [{"ghost_batch_size": 1}, {"ghost_batch_size": 5}, {"ghost_batch_size": 8, "norm": "gn"}, {"ghost_batch_size": 32}],
    ids=str,
)
def test_ghosts_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    size = values["ghost_batch_size"]
    with pytest.raises(
        ConfigError, match=f"^ghost_batch_size {size} must divide batch_size 32, from 2 on, and needs norm bn$"
    ):
        TrainConfig.of(**{"norm": "bn", **values})


def test_proximal_steps_without_a_penalty_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^l1_method proximal needs l1 above 0$"):
        TrainConfig.of(l1_method="proximal")


def test_a_group_is_named_by_its_variant_and_what_its_trials_differ_in_and_what_has_an_effect() -> None:
    configs = [TrainConfig(norm=norm, l1=l1, groups=g) for norm in ("gn", "bn") for l1 in (0, 1e-5) for g in (2, 4)]
    assert group_labels(configs) == [
        *("GN, groups 2", "GN, groups 4", "GN + L1, groups 2", "GN + L1, groups 4"),
        *("BN", "BN", "BN + L1", "BN + L1"),
    ]
    assert group_labels([TrainConfig(seed=seed, device=d) for seed, d in ((0, "cpu"), (1, "auto"))]) == ["GN", "GN"]
    rates = [TrainConfig(norm="bn", l1=1e-5, lr=lr, l1_on=on) for lr, on in ((0.1, "all"), (0.1234567, "weights"))]
    assert group_labels(rates) == ["BN + L1, l1_on all, lr 0.1", "BN + L1, l1_on weights, lr 0.1234567"]


def test_trial_key_depends_on_every_field_but_the_device() -> None:
    other = {
        "norm": "gn",
        "l1": 1.0,
        "l1_method": "proximal",
        "ghost_batch_size": 8,
        "l1_on": "all",
        "network": "wide",
        "dataset": "fashion",
        "device": "cpu",
        "groups": 8,
        "train_size": 1_000,
        "momentum": 0.5,
        "warmup": 0.5,
        "scale": 0.5,
        "kernels": "fast",
        "ema_decay": 0.9,
        "held_out_by": "seed",
        "init": "he",
    }
    for name, field in TrainConfig.model_fields.items():
        value = other.get(name, (field.default or 1) * 2)
        changed = TrainConfig.of(**{"norm": "bn", "l1": 1e-5, name: value})
        assert (changed.trial_key == TrainConfig(norm="bn", l1=1e-5).trial_key) == (name == "device"), name


def test_trial_key_does_not_depend_on_spelling() -> None:
    assert TrainConfig.of(lr="6e-2", epochs="20").trial_key == TrainConfig(lr=0.06, epochs=20).trial_key


def test_the_keys_of_logged_runs_stand() -> None:
    assert TrainConfig().trial_key == "2ed93ab157bd92c4"
    assert TrainConfig(norm="bn", l1=1e-5, l1_on="all", seed=7, lr=0.1).trial_key == "984f826df781d808"


def test_command_gives_back_the_same_trial() -> None:
    config = TrainConfig(norm="bn", l1=1e-5, seed=3, train_size=1000)
    words = config.command().removeprefix("python -m normstudy train ").split()
    options = {name[2:].replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert TrainConfig.of(**options) == config
