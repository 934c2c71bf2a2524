"""The training loop: learning canaries, seeds, divergence, stop signals."""

import signal
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.memory import MemoryRun, MemoryTracker

from normstudy.config import TrainConfig
from normstudy.data import MEMORY_FORMAT, TrainingStream, load_data, load_images
from normstudy.errors import ConfigError, Diverged, Interrupted
from normstudy.evaluate import Evaluation, evaluate
from normstudy.model import NORMS, DigitNet, count_parameters, l1_norms, stacked, unstacked
from normstudy.step import build_optimizer, training_step
from normstudy.tracking import Metric
from normstudy.train import (
    build_model,
    compute_metrics,
    initial_model,
    make_reproducible,
    pick_device,
    train,
    train_together,
)

SMALL = {"epochs": 2, "train_size": 640, "device": "cpu"}


pytestmark = pytest.mark.usefixtures("small_test_set")


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


def test_same_seed_gives_bitwise_equal_weights_and_another_seed_does_not() -> None:
    first, run = trained(norm="bn", l1=1e-5)
    again, run_again = trained(norm="bn", l1=1e-5)
    other, _ = trained(norm="bn", l1=1e-5, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert run.epochs[-1][Metric.TEST_LOSS] == run_again.epochs[-1][Metric.TEST_LOSS]
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_reported_train_loss_is_cross_entropy_without_the_penalty() -> None:
    _, tiny_rate = trained(norm="gn", l1=1.0, lr=1e-12, epochs=1)
    _, without = trained(norm="gn", lr=1e-12, epochs=1)
    assert tiny_rate.epochs[0][Metric.TRAIN_LOSS] == pytest.approx(without.epochs[0][Metric.TRAIN_LOSS], rel=1e-4)
    l1_norm = l1_norms(initial_model(without.config)).item()
    assert tiny_rate.epochs[0][Metric.TRAIN_PENALTY] == pytest.approx(l1_norm, rel=1e-4)
    assert without.epochs[0][Metric.TRAIN_PENALTY] == 0


def test_with_an_average_the_network_that_it_makes_is_the_result() -> None:
    plain, _ = trained(norm="bn")
    result, run = trained(norm="bn", ema_decay=0.75)
    assert not torch.equal(result.classifier.weight, plain.classifier.weight)
    torch.testing.assert_close(result.classifier.weight, plain.classifier.weight, rtol=0.2, atol=0.02)
    assert run.evaluation is not None
    found = evaluate(result, load_images()[1].take(torch.arange(500)))
    torch.testing.assert_close(found.logits, run.evaluation.logits)


def test_epochs_are_logged_once_each_from_one_with_every_metric() -> None:
    _, run = trained(val_size=1_000)
    assert run.steps == [1, 2]
    assert all(set(metrics) == set(Metric) for metrics in run.epochs)
    first, last = run.epochs
    assert run.evaluation is not None
    assert (last[Metric.TEST_LOSS], last[Metric.TEST_ACCURACY]) == (run.evaluation.loss, run.evaluation.accuracy)
    assert last[Metric.VAL_ACCURACY] > first[Metric.VAL_ACCURACY]
    assert last[Metric.VAL_LOSS] != last[Metric.TEST_LOSS]
    assert first[Metric.LEARNING_RATE] == pytest.approx(0.03 / 25)
    assert first[Metric.LEARNING_RATE] < last[Metric.LEARNING_RATE] < 0.03  # as the second epoch begins, after the peak


OUTCOMES = torch.tensor([[1.0, 0.5, 3.0], [2.0, 1.5, 4.0]])  # of two steps: cross-entropy, penalty, right answers
ANSWERS = Evaluation(loss=0.25, accuracy=0.75, logits=torch.zeros(1, 10))


def test_metrics_of_an_epoch_are_means_over_its_steps() -> None:
    assert compute_metrics(OUTCOMES, ANSWERS, replace(ANSWERS, loss=0.5, accuracy=0.625), 8, 20) == {
        Metric.TRAIN_LOSS: 1.5,
        Metric.TRAIN_ACCURACY: 7 / 16,
        Metric.TRAIN_PENALTY: 1.0,
        Metric.TEST_LOSS: 0.25,
        Metric.TEST_ACCURACY: 0.75,
        Metric.VAL_LOSS: 0.5,
        Metric.VAL_ACCURACY: 0.625,
    }


@pytest.mark.parametrize(("place", "step"), [((0, 0), 19), ((1, 1), 20)])
def test_the_first_step_that_was_not_finite_is_named(place: tuple[int, int], step: int) -> None:
    outcomes = OUTCOMES.clone()
    outcomes[place] = float("inf")
    with pytest.raises(Diverged, match=f"^diverged: the training loss is not finite at step {step}$"):
        compute_metrics(outcomes, ANSWERS, None, 8, 20)


def test_a_test_loss_that_is_not_finite_is_a_divergence() -> None:
    with pytest.raises(Diverged, match="test/loss is not finite at step 20"):
        compute_metrics(OUTCOMES, replace(ANSWERS, loss=float("nan")), None, 8, 20)


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


def test_the_best_device_that_is_here_is_taken_and_one_that_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for here, taken in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=here: here)
        assert pick_device("auto").type == taken
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match=r"^device=cuda: not available on this machine; choose from auto, cpu$"):
        train(TrainConfig(device="cuda"), MemoryTracker())


def test_a_training_takes_one_order_of_sums_and_deterministic_kernels() -> None:
    make_reproducible(TrainConfig(threads=2))
    assert torch.get_num_threads() == 2
    make_reproducible(TrainConfig())
    assert torch.get_num_threads() == 1
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32


def test_fast_kernels_are_taken_where_they_are_asked_for_and_refused_without_cuda() -> None:
    make_reproducible(TrainConfig(kernels="fast"))
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.benchmark
    make_reproducible(TrainConfig())
    assert not torch.backends.cuda.matmul.allow_tf32
    tracker = MemoryTracker()
    with pytest.raises(ConfigError, match=r"^kernels=fast: needs CUDA, and the device is cpu; choose exact$"):
        train(TrainConfig.of(kernels="fast", **SMALL), tracker)
    assert not tracker.runs


def steps_of(norm: str, seeds: list[int], dtype: torch.dtype) -> tuple[torch.Tensor, list[DigitNet]]:
    """What ten steps of these seeds in lock-step say, and the networks after them."""
    configs = [TrainConfig(norm=norm, l1=1e-3, batch_size=8, train_size=80, seed=seed) for seed in seeds]
    make_reproducible(configs[0])
    model = stacked([initial_model(config) for config in configs]).to(dtype).to(memory_format=MEMORY_FORMAT["cpu"])
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
    together, networks = steps_of(norm, [2, 0], torch.float64)
    single, _ = steps_of(norm, [2, 0], torch.float32)
    for place, seed in enumerate([2, 0]):
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
        found = evaluate(model.to(memory_format=MEMORY_FORMAT["cpu"]), load_images()[1].take(torch.arange(500)))
        assert found.accuracy == pytest.approx(run.epochs[-1][Metric.TEST_ACCURACY], abs=2e-3)
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


def test_a_run_ends_when_it_is_whole_whatever_stops_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    finish, stopped = MemoryRun.finish, Interrupted(15)

    def stopped_at_the_second(run: MemoryRun, *result: Any) -> None:
        if run.config.seed == 1:
            raise stopped
        finish(run, *result)

    monkeypatch.setattr(MemoryRun, "finish", stopped_at_the_second)
    tracker = MemoryTracker()
    with pytest.raises(Interrupted):
        train_together([TrainConfig.of(seed=seed, **SMALL) for seed in (0, 1, 2)], tracker)
    assert [run.ended_by for run in tracker.runs] == [[None], [stopped], [stopped]]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"seed": 1, "lr": 0.1}, "may differ in nothing but the seed"),
        ({}, "two trials have the same seed"),
    ],
)
def test_trials_that_cannot_be_stacked_are_refused(second: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_together([TrainConfig(**SMALL), TrainConfig.of(**{**SMALL, **second})], MemoryTracker())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("norm", NORMS)
def test_a_captured_step_learns_what_the_same_step_on_the_cpu_does(norm: str) -> None:
    """They see the same batches. Rounding alone parts them: by less than 1 % of the first epoch's mean loss."""
    on_gpu, on_cpu = MemoryTracker(), MemoryTracker()
    for tracker, device in ((on_gpu, "cuda"), (on_cpu, "cpu")):
        train_together(
            [TrainConfig.of(**{**SMALL, "device": device, "norm": norm, "seed": s}) for s in (0, 1)], tracker
        )
    for one, other in zip(on_gpu.runs, on_cpu.runs, strict=True):
        first, second = (run.epochs[0][Metric.TRAIN_LOSS] for run in (one, other))
        assert first == pytest.approx(second, rel=0.01)
