"""The recipe against the formulas of its sources, written out here: no change of it passes unseen."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from normstudy.config import TrainConfig
from normstudy.data import MEMORY_FORMAT, TrainingStream, load_data
from normstudy.model import NORMS, DigitNet, penalised_weights
from normstudy.step import build_optimizer, followed, moving_average, training_step
from normstudy.train import initial_model, make_reproducible

CPU = torch.device("cpu")
DECAYED = {"features.0", "features.4", "features.7", "features.11", "classifier"}  # convolutions, and the linear layer


def one_cycle(step: int, steps: int, peak: float, warmup: float) -> float:
    """Smith and Topin 2018, with cosines as in fast.ai's: from peak / 25 up to peak, and down to peak / 250,000.

    `step` counts from 0; at `steps`, after the last one, the lowest rate is reached.
    """
    top = warmup * (steps + 1) - 1
    first, last, way = (
        (peak / 25, peak, step / top) if step <= top else (peak, peak / 25e4, (step - top) / (steps - top))
    )
    return last + (first - last) * (1 + math.cos(math.pi * way)) / 2


def loss_of(model: DigitNet, config: TrainConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, and lambda times the sum of the absolute values."""
    cross_entropy = -functional.log_softmax(logits, dim=1)[range(len(labels)), labels].mean()
    if config.l1_method == "proximal":
        return cross_entropy
    return cross_entropy + config.l1 * torch.stack([p.abs().sum() for p in summed(model, config)]).sum()


def summed(model: DigitNet, config: TrainConfig) -> list[Tensor]:
    """What the penalty acts on."""
    if config.l1_on == "linear":
        return [model.classifier.weight]
    return [p for name, p in model.named_parameters() if config.l1_on == "all" or is_decayed(name)]


def is_decayed(name: str) -> bool:
    layer, _, kind = name.rpartition(".")
    return kind == "weight" and layer in DECAYED


@pytest.mark.parametrize(
    "settings",
    [
        *({"norm": norm} for norm in NORMS),
        {"norm": "bn", "l1": 1e-2, "l1_on": "all", "warmup": 0.5},
        {"norm": "gn", "l1": 1e-2, "momentum": 0.0, "lr": 0.3},
        {"norm": "ln", "l1": 1e-2, "l1_on": "linear"},
        {"norm": "bn", "l1": 1e-2, "l1_method": "proximal"},
    ],
    ids=str,
)
def test_ten_steps_are_those_of_the_formulas(settings: dict[str, object]) -> None:
    """SGD with weight decay and Nesterov momentum as in Sutskever et al. 2013, in the form of PyTorch: the buffer is
    the first gradient, then v = momentum * v + g, and w = w - rate * (g + momentum * v)."""
    config = TrainConfig.of(**{"weight_decay": 0.1, **settings})
    make_reproducible(config)
    model, reference = (initial_model(config).double() for _ in range(2))
    model.to(memory_format=MEMORY_FORMAT["cpu"])
    optimizer, schedule = build_optimizer(model, config, 10)
    step = training_step(model, optimizer, config)
    buffers: dict[str, Tensor] = {}
    for number in range(10):
        images, labels = torch.randn(4, 1, 28, 28, dtype=torch.float64), torch.randint(10, (4, 1))
        _, _, hits = step(images.contiguous(memory_format=MEMORY_FORMAT["cpu"]), labels)
        schedule.step()
        logits = reference(images)
        assert hits == (logits.argmax(dim=1, keepdim=True) == labels).sum()
        parameters = dict(reference.named_parameters())
        loss = loss_of(reference, config, logits, labels.squeeze(1))
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        rate = one_cycle(number, 10, config.lr, config.warmup)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            decayed = gradient + (0.1 * parameter.data if is_decayed(name) else 0)
            buffers[name] = config.momentum * buffers[name] + decayed if number else decayed
            parameter.data -= rate * (decayed + config.momentum * buffers[name])
        if config.l1_method == "proximal":  # towards 0, by no more than is left
            for weight in summed(reference, config):
                most = rate * config.l1 / (1 - config.momentum)
                weight.data -= weight.data.clamp(-most, most)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_the_moving_average_begins_at_the_first_step_and_takes_in_weights_and_statistics() -> None:
    model = DigitNet("bn").double()
    average = moving_average(model, 0.75)
    assert average is not None
    states = []

    def step(images: Tensor, labels: Tensor) -> Tensor:
        for value in model.state_dict().values():
            value.add_(torch.randn_like(value) if value.is_floating_point() else 0)  # BatchNorm's count decides nothing
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return images

    for _ in range(3):
        followed(step, model, average)(torch.zeros(1), torch.zeros(1))
    for name, value in average.module.state_dict().items():
        first, second, third = (state[name] for state in states)
        expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
        torch.testing.assert_close(value, expected, check_dtype=False, msg=name)


@pytest.mark.parametrize("norm", NORMS)
def test_weight_decay_acts_on_the_convolutions_and_the_linear_layer_alone(norm: str) -> None:
    model = DigitNet(norm)
    decayed, others = build_optimizer(model, TrainConfig(weight_decay=0.2), 10)[0].param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.2, 0)
    assert {names[id(parameter)] for parameter in decayed["params"]} == {f"{layer}.weight" for layer in DECAYED}
    assert len(decayed["params"]) + len(others["params"]) == len(names) == 14


def test_hes_initial_convolutions_have_the_deviation_of_his_formula() -> None:
    weights = [penalised_weights(initial_model(TrainConfig(init="he", seed=seed))) for seed in range(20)]
    for drawn in list(zip(*weights, strict=True))[:-1]:
        fan_in = drawn[0][0].numel()
        assert torch.stack(drawn).std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    plain = initial_model(TrainConfig(seed=0)).classifier.weight
    assert weights[0][-1].std().item() == pytest.approx(plain.std().item(), rel=0.1)


@pytest.mark.parametrize(("warmup", "peak"), [(0.3, 29), (0.5, 49)])
def test_the_learning_rate_starts_at_a_25th_peaks_after_the_warmup_and_ends_near_0(warmup: float, peak: int) -> None:
    optimizer, schedule = build_optimizer(DigitNet("gn"), TrainConfig(lr=0.1, warmup=warmup), 99)
    rates = [schedule.get_last_lr()]
    for _ in range(99):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr())
    assert rates == [pytest.approx([one_cycle(step, 99, 0.1, warmup)] * 2) for step in range(100)]
    assert [rates[step][0] for step in (0, peak, 99)] == pytest.approx([0.004, 0.1, 0.1 / 25e4])
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(("val_size", "digest"), [(10, "77985042699ec6bb"), (6_000, "1a41fc6c9e953e18")])
def test_the_same_images_are_held_out_for_ever(val_size: int, digest: str) -> None:
    held_out = load_data(TrainConfig(val_size=val_size), CPU).val
    assert held_out is not None
    assert held_out.digest == digest


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, -92.2455),
        ({"rotation": 0}, -85.0557),
        ({"translation": 0}, -72.0869),
        ({"scale": 0}, 27.1347),
        ({"seed": 1}, 315.3711),
        ({"rotation": 0, "translation": 0, "scale": 0}, 28.8240),
    ],
    ids=str,
)
def test_each_setting_of_the_augmentation_and_the_seed_decide_the_batches(
    settings: dict[str, float], total: float
) -> None:
    config = TrainConfig.of(train_size=32, **settings)
    [(images, labels)] = TrainingStream(load_data(config, CPU).train, config, [config.seed]).epoch()
    assert images.double().sum().item() == pytest.approx(total, rel=1e-4)
    assert labels.flatten()[:5].tolist() == ([4, 9, 6, 5, 8] if config.seed else [1, 2, 3, 5, 3])
