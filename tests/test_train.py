"""The training loop: learning canaries, seeds, divergence, stop signals."""

import signal

import pytest
import torch
from memory import MemoryTracker
from torch.nn import functional

from normstudy.config import TrainConfig
from normstudy.data import load_mnist, normalise
from normstudy.errors import ConfigError, Diverged, Interrupted
from normstudy.model import NORMS, DigitNet
from normstudy.tracking import Metric
from normstudy.train import build_model, make_reproducible, train

SMALL = {"epochs": 2, "train_size": 640, "device": "cpu"}


def trained(**values: object) -> tuple[DigitNet, MemoryTracker]:
    tracker = MemoryTracker()
    return train(TrainConfig.of(**{**SMALL, **values}), tracker), tracker


@pytest.mark.parametrize("norm", NORMS)
def test_training_moves_every_weight_and_lowers_the_loss(norm: str) -> None:
    config = TrainConfig.of(norm=norm, **SMALL)
    make_reproducible(config)
    before = build_model(config).state_dict()
    model, tracker = trained(norm=norm)
    for name, value in model.state_dict().items():
        assert not torch.equal(value, before[name]), f"{name} did not move"
    assert tracker.epochs[1][Metric.TRAIN_LOSS] < tracker.epochs[0][Metric.TRAIN_LOSS]
    if norm != "none":  # which learns little in 20 steps
        assert tracker.epochs[1][Metric.TEST_ACCURACY] > 0.3
    assert tracker.parameters < 8_000


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_has_a_finite_gradient_that_is_not_all_zero(norm: str) -> None:
    torch.manual_seed(0)
    model = DigitNet(norm)
    test = load_mnist()[1]
    functional.cross_entropy(model(normalise(test.images[:64])), test.labels[:64]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_only_batch_norm_keeps_running_statistics() -> None:
    with_buffers = {name for name in NORMS if any("running" in key for key in DigitNet(name).state_dict())}
    assert with_buffers == {"bn"}


def test_same_seed_gives_bitwise_equal_weights_and_another_seed_does_not() -> None:
    first, tracker = trained(norm="bn", l1=1e-5)
    again, tracker_again = trained(norm="bn", l1=1e-5)
    other, _ = trained(norm="bn", l1=1e-5, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert tracker.epochs[-1][Metric.TEST_LOSS] == tracker_again.epochs[-1][Metric.TEST_LOSS]
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_penalty_is_zero_unless_asked_for_and_shrinks_the_weights_where_it_is() -> None:
    plain, without = trained(norm="bn")
    sparse, with_penalty = trained(norm="bn", l1=1e-3)
    assert all(metrics[Metric.TRAIN_PENALTY] == 0 for metrics in without.epochs)
    assert all(metrics[Metric.TRAIN_PENALTY] > 0 for metrics in with_penalty.epochs)
    assert sparse.classifier.weight.abs().sum() < plain.classifier.weight.abs().sum()


def test_reported_train_loss_is_cross_entropy_without_the_penalty() -> None:
    _, tiny_rate = trained(norm="gn", l1=1.0, lr=1e-12, epochs=1)
    _, without = trained(norm="gn", lr=1e-12, epochs=1)
    assert tiny_rate.epochs[0][Metric.TRAIN_LOSS] == pytest.approx(without.epochs[0][Metric.TRAIN_LOSS], rel=1e-4)
    assert tiny_rate.epochs[0][Metric.TRAIN_PENALTY] > 100


def test_epochs_are_logged_once_each_from_one_with_every_metric() -> None:
    _, tracker = trained(val_size=1_000)
    assert tracker.steps == [1, 2]
    assert all(set(metrics) == set(Metric) for metrics in tracker.epochs)
    assert tracker.evaluation is not None
    assert tracker.evaluation.accuracy == tracker.epochs[-1][Metric.TEST_ACCURACY]


def test_learning_rate_rises_to_its_peak_and_falls() -> None:
    _, tracker = trained(epochs=5)
    rates = [metrics[Metric.LEARNING_RATE] for metrics in tracker.epochs]
    assert rates[0] < rates[1] > rates[-1]


def test_divergence_is_raised_with_the_first_bad_step_and_logs_no_epoch() -> None:
    tracker = MemoryTracker()
    with pytest.raises(Diverged, match=r"not finite at step [0-9]+") as caught:
        train(TrainConfig.of(norm="none", lr=1e9, **SMALL), tracker)
    assert 2 <= caught.value.step <= 20
    assert tracker.ended_by is caught.value
    assert tracker.evaluation is None
    assert len(tracker.epochs) < 2


def test_stop_signal_ends_the_run_at_the_next_batch() -> None:
    asked: list[None] = []

    def stop() -> int | None:
        asked.append(None)
        return signal.SIGTERM if len(asked) > 3 else None

    tracker = MemoryTracker()
    with pytest.raises(Interrupted, match="stopped by signal 15") as caught:
        train(TrainConfig.of(**SMALL), tracker, stop_signal=stop)
    assert caught.value.exit_status == 143
    assert len(asked) == 4


def test_groups_that_do_not_fit_are_refused_before_a_run_exists() -> None:
    tracker = MemoryTracker()
    with pytest.raises(ConfigError, match="groups=3 does not divide the 8 channels"):
        train(TrainConfig.of(groups=3, **SMALL), tracker)
    assert tracker.ended_by is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that must be missing")
def test_device_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="device=cuda: not available on this machine; choose from auto, cpu"):
        train(TrainConfig(device="cuda"), MemoryTracker())
