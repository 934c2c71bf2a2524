"""One training step, plain or as a CUDA graph, and what it optimises with."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from normstudy.config import TrainConfig
from normstudy.data import MEMORY_FORMAT
from normstudy.model import CLASSES, DigitNet, l1_norms, l1_parameters, penalised_weights

Step = Callable[[Float[Tensor, "b seeds 28 28"], Int64[Tensor, "b seeds"]], Float[Tensor, "3 seeds"]]


def training_step(model: DigitNet, optimizer: SGD, config: TrainConfig, average: AveragedModel | None = None) -> Step:
    """A function that takes one step for each network of the stack, on its own batch.

    It answers, for each: cross-entropy, mean over the batch, as the model was before the step; penalty; right answers.
    `average` follows the weights.
    """

    def step(images: Float[Tensor, "b seeds 28 28"], labels: Int64[Tensor, "b seeds"]) -> Float[Tensor, "3 seeds"]:
        logits = model(images).view(*labels.shape, CLASSES)
        losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        cross_entropy = losses.view_as(labels).mean(0)
        objective, penalty = cross_entropy, torch.zeros_like(cross_entropy)
        if config.l1:
            penalty = config.l1 * l1_norms(model, on=config.l1_on, stack=model.stack)
            if config.l1_method == "subgradient":
                objective = cross_entropy + penalty
        optimizer.zero_grad()
        # no network's loss depends on another's weights: the gradient of the sum is each one's own
        objective.sum().backward()
        optimizer.step()
        with torch.no_grad():
            if config.l1_method == "proximal":
                shrink(l1_parameters(model, config.l1_on), optimizer.param_groups[0], config.l1)
            hits = (logits.argmax(dim=2) == labels).sum(0)
            return torch.stack([cross_entropy, penalty, hits])

    on_gpu = next(model.parameters()).is_cuda
    taken = captured(step, model, optimizer, (config.batch_size, model.stack)) if on_gpu else step
    return followed(taken, model, average)


def followed(step: Step, model: DigitNet, average: AveragedModel | None) -> Step:
    """The step, and after it `average` takes in the weights."""
    if average is None:
        return step

    def both(images: Tensor, labels: Tensor) -> Tensor:
        outcome = step(images, labels)
        average.update_parameters(model)
        return outcome

    return both


def moving_average(model: DigitNet, decay: float) -> AveragedModel | None:
    """What holds the moving average of its weights from the first step on; None without decay.

    Tarvainen and Valpola 2017, "Mean Teachers are Better Role Models", section 2. BatchNorm's running statistics are
    averaged with the weights, not computed anew for the averaged ones.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None


def shrink(weights: list[Tensor], group: dict[str, Any], strength: float) -> None:
    """The proximal step of L1, a soft threshold: each weight nearer to 0, and never past it.

    Parikh and Boyd 2014, "Proximal Algorithms", section 6.5.2, with rate * strength / (1 - momentum) in place of rate *
    strength: so a weight rests at 0 where its gradient is below the strength, as momentum multiplies a steady gradient
    by 1 / (1 - momentum).
    """
    threshold = group["lr"] * strength / (1 - group["momentum"])
    for weight in weights:
        weight.copy_(weight.sign() * (weight.abs() - threshold).clamp(min=0))


def captured(step: Step, model: DigitNet, optimizer: SGD, shape: tuple[int, int]) -> Step:
    """The step as one CUDA graph: a replay is one launch instead of over a hundred, which cost more than the work.

    Capturing needs some real steps first; their effect on weights, statistics and momentum is undone. The step is not
    compiled before: on an H200 that takes 7 to 15 s for each shape and saves 130 us a step with ten seeds, so it pays
    from 54,000 to 115,000 steps of one shape on; a stack of 20 epochs has 37,500.
    """
    device = next(model.parameters()).device
    images = torch.zeros(*shape, 28, 28, device=device).to(memory_format=MEMORY_FORMAT[device.type])
    labels = torch.zeros(shape, dtype=torch.int64, device=device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    momenta = {
        parameter: state["momentum_buffer"].clone()
        for parameter, state in optimizer.state.items()
        if state.get("momentum_buffer") is not None
    }
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(images, labels)
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outcome = step(images, labels)
    model.load_state_dict(before)
    for parameter, state in optimizer.state.items():
        # zero where there was none: the first step then leaves the gradient itself there, as a fresh optimiser does
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"].copy_(momenta.get(parameter, torch.zeros_like(parameter)))

    def replay(new_images: Tensor, new_labels: Tensor) -> Tensor:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        return outcome.clone()

    return replay


def build_optimizer(model: DigitNet, config: TrainConfig, steps: int) -> tuple[SGD, OneCycleLR]:
    """SGD with Nesterov momentum on a one-cycle schedule (Smith and Topin 2018, "Super-Convergence")."""
    decayed = penalised_weights(model)
    others = [parameter for parameter in model.parameters() if not any(parameter is weight for weight in decayed)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if decayed[0].is_cuda:  # a CUDA graph reads the learning rate where it lies; a number would be captured for good
        groups = [{**group, "lr": torch.tensor(config.lr, device=decayed[0].device)} for group in groups]
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    # one more than the steps: the schedule is advanced after each step, the last one too; and momentum stays as
    # configured: cycling it would make `momentum` a setting without effect
    total = steps + 1
    return optimizer, OneCycleLR(optimizer, config.lr, total_steps=total, pct_start=config.warmup, cycle_momentum=False)
