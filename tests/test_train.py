"""The training loop: learning canaries, seeds, divergence, stop signals."""

import signal

import pytest
import torch
from helpers.memory import MemoryRun, MemoryTracker
from torch.nn import functional

from normstudy.config import TrainConfig
from normstudy.data import MEMORY_FORMAT, TrainingStream, load_data, load_images, normalise
from normstudy.errors import ConfigError, Diverged, Interrupted
from normstudy.evaluate import evaluate
from normstudy.model import NORMS, DigitNet, count_parameters, stacked, unstacked
from normstudy.step import build_optimizer, training_step
from normstudy.tracking import Metric
from normstudy.train import (
    build_model,
    initial_model,
    make_reproducible,
    train,
    train_together,
)

SMALL = {"epochs": 2, "train_size": 640, "device": "cpu"}


def trained(**values: object) -> tuple[DigitNet, MemoryRun]:
    tracker = MemoryTracker()
    model = train(TrainConfig.of(**{**SMALL, **values}), tracker)
    [run] = tracker.runs
    assert run.ended_by == [None]
    return model, run


@pytest.mark.parametrize("norm", NORMS)
def test_training_moves_every_weight_and_lowers_the_loss(norm: str) -> None:
    config = TrainConfig.of(norm=norm, **SMALL)
    make_reproducible(config)
    before = build_model(config).state_dict()
    model, run = trained(norm=norm)
    for name, value in model.state_dict().items():
        assert not torch.equal(value, before[name]), f"{name} did not move"
    assert run.epochs[1][Metric.TRAIN_LOSS] < run.epochs[0][Metric.TRAIN_LOSS]
    if norm != "none":  # which learns little in 20 steps
        assert run.epochs[1][Metric.TEST_ACCURACY] > 0.3
    assert run.parameters < 8_000


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_has_a_finite_gradient_that_is_not_all_zero(norm: str) -> None:
    torch.manual_seed(0)
    model = DigitNet(norm)
    test = load_images()[1]
    functional.cross_entropy(model(normalise(test.images[:64])), test.labels[:64]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_only_batch_norm_keeps_running_statistics() -> None:
    with_buffers = {name for name in NORMS if any("running" in key for key in DigitNet(name).state_dict())}
    assert with_buffers == {"bn"}


def test_same_seed_gives_bitwise_equal_weights_and_another_seed_does_not() -> None:
    first, run = trained(norm="bn", l1=1e-5)
    again, run_again = trained(norm="bn", l1=1e-5)
    other, _ = trained(norm="bn", l1=1e-5, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert run.epochs[-1][Metric.TEST_LOSS] == run_again.epochs[-1][Metric.TEST_LOSS]
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_penalty_is_zero_unless_asked_for_and_shrinks_the_weights_where_it_is() -> None:
    plain, without = trained(norm="bn")
    sparse, with_penalty = trained(norm="bn", l1=1e-3)
    assert all(metrics[Metric.TRAIN_PENALTY] == 0 for metrics in without.epochs)
    assert all(metrics[Metric.TRAIN_PENALTY] > 0 for metrics in with_penalty.epochs)
    assert sparse.classifier.weight.abs().sum() < plain.classifier.weight.abs().sum()


def test_penalty_on_all_parameters_shrinks_the_norms_scales_too() -> None:
    scales = {on: trained(norm="bn", l1=1e-2, l1_on=on)[0].features[2].weight.abs().sum() for on in ("weights", "all")}
    assert scales["all"] < scales["weights"]


def test_reported_train_loss_is_cross_entropy_without_the_penalty() -> None:
    _, tiny_rate = trained(norm="gn", l1=1.0, lr=1e-12, epochs=1)
    _, without = trained(norm="gn", lr=1e-12, epochs=1)
    assert tiny_rate.epochs[0][Metric.TRAIN_LOSS] == pytest.approx(without.epochs[0][Metric.TRAIN_LOSS], rel=1e-4)
    assert tiny_rate.epochs[0][Metric.TRAIN_PENALTY] > 100


def test_epochs_are_logged_once_each_from_one_with_every_metric() -> None:
    _, run = trained(val_size=1_000)
    assert run.steps == [1, 2]
    assert all(set(metrics) == set(Metric) for metrics in run.epochs)
    assert run.evaluation is not None
    assert run.evaluation.accuracy == run.epochs[-1][Metric.TEST_ACCURACY]


def test_learning_rate_rises_to_its_peak_and_falls() -> None:
    _, run = trained(epochs=5)
    rates = [metrics[Metric.LEARNING_RATE] for metrics in run.epochs]
    assert rates[0] < rates[1] > rates[-1]


def test_divergence_is_raised_with_the_first_bad_step_and_logs_no_epoch() -> None:
    tracker = MemoryTracker()
    with pytest.raises(Diverged, match=r"not finite at step [0-9]+") as caught:
        train(TrainConfig.of(norm="none", lr=1e9, **SMALL), tracker)
    assert 2 <= caught.value.step <= 2 * (640 // TrainConfig().batch_size)
    [run] = tracker.runs
    assert run.ended_by == [caught.value]
    assert run.evaluation is None
    assert len(run.epochs) < 2


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
    assert not tracker.runs


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that must be missing")
def test_device_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="device=cuda: not available on this machine; choose from auto, cpu"):
        train(TrainConfig(device="cuda"), MemoryTracker())


def steps_of(norm: str, seeds: list[int], dtype: torch.dtype) -> tuple[torch.Tensor, list[DigitNet]]:
    """What ten steps of these seeds in lock-step say, and the networks after them."""
    configs = [TrainConfig.of(norm=norm, l1=1e-3, batch_size=64, seed=seed, **SMALL) for seed in seeds]
    make_reproducible(configs[0])
    model = stacked([initial_model(config) for config in configs]).to(dtype=dtype, memory_format=MEMORY_FORMAT)
    optimizer, schedule = build_optimizer(model, configs[0], 20)
    step = training_step(model.train(), optimizer, configs[0])
    stream = TrainingStream(load_data(configs[0], torch.device("cpu")).train, configs[0], seeds)
    outcomes = []
    for images, labels in stream.epoch():
        outcomes.append(step(images.to(dtype), labels))
        schedule.step()
    return torch.stack(outcomes), unstacked(model)


@pytest.mark.parametrize("norm", NORMS)
def test_each_seed_of_a_stack_trains_as_it_does_alone(norm: str) -> None:
    """In float64, to 1e-12 over ten steps. In float32 the first step agrees to 1e-5; later ones part, as rounding turns
    another place of a pool or a ReLU into the largest."""
    together, networks = steps_of(norm, [2, 0, 1], torch.float64)
    single, _ = steps_of(norm, [2, 0, 1], torch.float32)
    for place, seed in enumerate([2, 0, 1]):
        alone, [network] = steps_of(norm, [seed], torch.float64)
        torch.testing.assert_close(together[:, :, place], alone[:, :, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(single[0, :, place], alone[0, :, 0].float(), rtol=1e-5, atol=1e-5)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(networks[place].state_dict()[name], value.to(networks[place].state_dict()[name]))


def test_seeds_in_lock_step_are_runs_of_their_own() -> None:
    tracker = MemoryTracker()
    configs = [TrainConfig.of(norm="bn", seed=seed, **SMALL) for seed in (5, 6)]
    models = train_together(configs, tracker)
    assert [run.config for run in tracker.runs] == configs
    for run, model in zip(tracker.runs, models, strict=True):
        assert run.steps == [1, 2]
        assert run.ended_by == [None]
        assert run.model is model
        assert run.parameters == count_parameters(model)
        assert run.epochs[-1][Metric.TEST_ACCURACY] > 0.3
        assert evaluate(model.to(memory_format=MEMORY_FORMAT), load_images()[1]).accuracy == pytest.approx(
            run.epochs[-1][Metric.TEST_ACCURACY], abs=2e-4
        )
    assert tracker.runs[0].epochs[0][Metric.TRAIN_LOSS] != tracker.runs[1].epochs[0][Metric.TRAIN_LOSS]


def test_a_seed_that_diverges_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(config: TrainConfig) -> DigitNet:
        model = initial_model(config)
        if config.seed == 1:
            model.classifier.weight.data.fill_(float("nan"))
        return model

    monkeypatch.setattr("normstudy.train.initial_model", poisoned)
    tracker = MemoryTracker()
    with pytest.raises(Diverged, match="not finite at step 1") as caught:
        train_together([TrainConfig.of(seed=seed, **SMALL) for seed in (0, 1, 2)], tracker)
    assert [run.ended_by for run in tracker.runs] == [[None], [caught.value], [None]]
    assert [run.steps for run in tracker.runs] == [[1, 2], [], [1, 2]]
    assert tracker.runs[1].evaluation is None


def test_a_stop_ends_every_seed() -> None:
    tracker = MemoryTracker()
    with pytest.raises(Interrupted) as caught:
        train_together([TrainConfig.of(seed=seed, **SMALL) for seed in (0, 1)], tracker, stop_signal=lambda: 15)
    assert [run.ended_by for run in tracker.runs] == [[caught.value], [caught.value]]


@pytest.mark.parametrize(
    ("second", "message"),
    [({"seed": 1, "lr": 0.1}, "may differ in nothing but the seed"), ({}, "two trials have the same seed")],
)
def test_trials_that_cannot_be_stacked_are_refused(second: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_together([TrainConfig(**SMALL), TrainConfig.of(**{**SMALL, **second})], MemoryTracker())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("norm", NORMS)
def test_a_captured_step_learns_what_the_same_step_on_the_cpu_does(norm: str) -> None:
    on_gpu, on_cpu = MemoryTracker(), MemoryTracker()
    for tracker, device in ((on_gpu, "cuda"), (on_cpu, "cpu")):
        train_together(
            [TrainConfig.of(**{**SMALL, "device": device, "norm": norm, "seed": s}) for s in (0, 1)], tracker
        )
    for one, other in zip(on_gpu.runs, on_cpu.runs, strict=True):
        first, second = (run.epochs[0][Metric.TRAIN_LOSS] for run in (one, other))
        assert first == pytest.approx(second, rel=0.1)  # order and weights agree, the draws of the augmentation do not
