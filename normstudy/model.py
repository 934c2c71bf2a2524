"""The CNN of the study, and the table of its normalisation layers. Needs no other file of the package.

The main comparison is fair because every row of `NORMS` adds the same parameters, a scale and a shift per channel, to
the same network. The rows differ only in which activations share a mean and a variance.

`stack` networks can be one: their channels lie one after the other, convolutions are grouped by network and no norm
crosses from one to the next, so each computes what it would compute alone. Everywhere else `stack` is 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


class GhostBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics in training come from `ghost` images each, not from the whole batch.

    Hoffer et al. 2017, "Train longer, generalize better", algorithm 1; unlike there, the running averages take the mean
    of the ghosts' statistics once a step.
    """

    def __init__(self, channels: int, *, ghost: int) -> None:
        super().__init__(channels)
        self.ghost = ghost

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        if not self.training:
            return super().forward(x)
        count, (channels, height, width) = len(x) // self.ghost, x.shape[1:]
        # the channels of each ghost beside those of the others, as if they were other channels
        apart = x.view(count, self.ghost, channels, height, width).transpose(0, 1)
        averages = [self.get_buffer(name) for name in ("running_mean", "running_var")]
        mean, variance = (average.repeat(count) for average in averages)
        normalised = functional.batch_norm(
            apart.reshape(self.ghost, count * channels, height, width),
            mean,
            variance,
            self.weight.repeat(count),
            self.bias.repeat(count),
            training=True,
            momentum=cast(float, self.momentum),
            eps=self.eps,
        )
        for average, new in zip(averages, (mean, variance), strict=True):
            average.copy_(new.view(count, channels).mean(0))
        self.get_buffer("num_batches_tracked").add_(1)
        return normalised.view(self.ghost, count, channels, height, width).transpose(0, 1).reshape(x.shape)


def batch_norm(channels: int, *, groups: int, stack: int = 1, ghost: int = 0) -> nn.Module:
    """y = (x - E[x]) / sqrt(Var[x] + 1e-5) * scale + shift, statistics over N, H, W: one pair a channel.

    In eval mode the running averages of training stand in for the batch's statistics.
    Ioffe and Szegedy 2015, "Batch Normalization", algorithms 1 and 2. With `ghost`, see `GhostBatchNorm`. `groups` has
    no meaning here.
    """
    return GhostBatchNorm(stack * channels, ghost=ghost) if ghost else nn.BatchNorm2d(stack * channels)


def group_norm(channels: int, *, groups: int, stack: int = 1) -> nn.Module:
    """The same formula, statistics over H, W and the channels of one group: `groups` pairs an image.

    Wu and He 2018, "Group Normalization", section 3. Raises `ValueError` when `groups` does not divide `channels`.
    """
    if channels % groups:
        raise ValueError(f"groups={groups} does not divide the {channels} channels of a layer")
    return nn.GroupNorm(stack * groups, stack * channels)


def layer_norm(channels: int, *, groups: int, stack: int = 1) -> nn.Module:
    """The same formula, statistics over C, H, W: one pair an image.

    Three layers are called "LayerNorm" for images. This one is GroupNorm(1, C): statistics over all of C, H, W as in
    Ba, Kiros and Hinton 2016, "Layer Normalization", section 3, and a scale and shift per channel, so that its
    parameters equal BatchNorm's. It is not `nn.LayerNorm([C, H, W])`, which has a scale and shift per pixel too and
    would add thousands of parameters to a net of 8,000; nor ConvNeXt's, which takes statistics over C alone at each
    pixel. `groups` has no meaning here.
    """
    return nn.GroupNorm(stack, stack * channels)


def instance_norm(channels: int, *, groups: int, stack: int = 1) -> nn.Module:
    """The same formula, statistics over H, W: one pair an image and channel.

    Ulyanov, Vedaldi and Lempitsky 2016, "Instance Normalization", section 2. `groups` has no meaning here.
    """
    return nn.InstanceNorm2d(stack * channels, affine=True)


class ChannelAffine(nn.Module):
    """y = x * scale + shift: what the other rows do after normalising, without the normalising.

    It keeps the parameters of "no normalisation" equal to the rest, so a difference is due to the statistics alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def no_norm(channels: int, *, groups: int, stack: int = 1) -> nn.Module:
    """No statistics, only the scale and shift: see `ChannelAffine`. `groups` has no meaning here."""
    return ChannelAffine(stack * channels)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "bn": batch_norm,
    "gn": group_norm,
    "ln": layer_norm,
    "in": instance_norm,
    "none": no_norm,
}


class StackedLinear(nn.Linear):
    """One linear layer for each of `stack` networks: (n, stack * inputs) to (n, stack, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, stack: int) -> None:
        super().__init__(inputs, stack * outputs)
        self.stack = stack

    def forward(self, x: Float[Tensor, "n features"]) -> Float[Tensor, "n stack outputs"]:
        weight = self.weight.view(self.stack, -1, self.in_features)
        logits = torch.baddbmm(
            self.bias.view(self.stack, 1, -1),
            x.view(len(x), self.stack, self.in_features).transpose(0, 1),
            weight.transpose(1, 2),
        )
        return logits.transpose(0, 1)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Channels of a network's convolutions at 28 x 28, at 14 x 14 and at 7 x 7; the first is `kernel` x `kernel`, all
    others 3x3.

    With `skip`, a 3x3 convolution that keeps the number of channels passes its input on beside its output: He et al.
    2016, "Deep Residual Learning", section 3.
    """

    first: tuple[int, ...]
    middle: tuple[int, ...]
    last: tuple[int, ...]
    kernel: int = 5
    skip: bool = False


NETWORKS: dict[str, Layout] = {
    "plain": Layout(first=(8,), middle=(16, 16), last=(16,)),
    "wide": Layout(first=(8,), middle=(16, 20), last=(12,)),
    "skip": Layout(first=(8,), middle=(16, 16), last=(16,), skip=True),
    "late": Layout(first=(8,), middle=(12, 12), last=(16, 16), skip=True),
    "deep": Layout(first=(8,), middle=(12, 12, 12), last=(12, 12), skip=True),
    "deepskipless": Layout(first=(8,), middle=(12, 12, 12), last=(12, 12)),
    "small": Layout(first=(8,), middle=(8, 16), last=(8,)),
    "narrow": Layout(first=(8,), middle=(8, 8, 8), last=(8, 8), skip=True),
    "narrowplain": Layout(first=(8,), middle=(8, 8), last=(12,)),
    "fine": Layout(first=(8, 8), middle=(8, 12), last=(8,), kernel=3),
    "finer": Layout(first=(8, 8, 8), middle=(8, 8), last=(8,), kernel=3),
    "finewide": Layout(first=(8, 8), middle=(8, 8), last=(12,), kernel=3),
    "finelarge": Layout(first=(8, 8), middle=(16, 16), last=(16,), kernel=3),
    "finelast": Layout(first=(8, 8), middle=(12, 12), last=(24,), kernel=3),
    "finedeep": Layout(first=(8, 8), middle=(12, 12, 12), last=(16,), kernel=3),
}


class Skip(nn.Module):
    """y = x + block(x)."""

    def __init__(self, *block: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*block)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.block(x)


class DigitNet(nn.Module):
    """28 x 28 grey pictures to 10 logits; a network of `NETWORKS` has the same parameters whatever the norm.

    Convolutions at full resolution (`plain`: one of 5x5), max-pool; at 14 x 14, max-pool; at 7 x 7, each with norm and
    ReLU; max-pool; linear on the 3 x 3 that are left. Two choices keep the comparison fair to GroupNorm and
    LayerNorm, whose statistics come from one image: the first layer sees every pixel (no stride), and the last features
    keep their place (no global pooling after a normalised layer).
    """

    def __init__(self, norm: str, *, network: str = "plain", groups: int = 4, ghost: int = 0, stack: int = 1) -> None:
        """Raises `ValueError` for an unknown norm or network, and for groups that don't divide a layer's channels."""
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"unknown norm {norm!r}; choose from {', '.join(NORMS)}")
        if network not in NETWORKS:
            raise ValueError(f"unknown network {network!r}; choose from {', '.join(NETWORKS)}")
        self.norm, self.network, self.groups, self.ghost, self.stack = norm, network, groups, ghost, stack
        options = {"groups": groups, "stack": stack} | ({"ghost": ghost} if ghost else {})  # of BatchNorm alone
        layout = NETWORKS[network]

        def normalised(channels: int) -> list[nn.Module]:
            return [NORMS[norm](channels, **options), nn.ReLU(inplace=True)]

        def convolution(inputs: int, outputs: int, size: int) -> nn.Module:
            # no bias: the norm's shift does its work, and all but `none` would subtract it
            return nn.Conv2d(stack * inputs, stack * outputs, size, padding=size // 2, bias=False, groups=stack)

        channels = (*layout.first, *layout.middle, *layout.last)
        pooled = (len(layout.first), len(layout.first) + len(layout.middle))
        layers: list[nn.Module] = []
        inputs = 1
        for place, outputs in enumerate(channels, start=1):
            weights = convolution(inputs, outputs, layout.kernel if place == 1 else 3)
            pool = [nn.MaxPool2d(2)] if place in pooled else []
            if layout.skip and inputs == outputs:
                layers += [Skip(weights, *normalised(outputs)), *pool]
            else:  # the max-pool before the norm, so that the larger map passes one layer less
                layers += [weights, *pool, *normalised(outputs)]
            inputs = outputs
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2))
        features = inputs * 3 * 3
        self.classifier = nn.Linear(features, CLASSES) if stack == 1 else StackedLinear(features, CLASSES, stack=stack)

    def forward(self, images: Float[Tensor, "n stack 28 28"]) -> Float[Tensor, "n *stack 10"]:
        """Logits, (n, 10), of one image each; of a stack, (n, stack, 10), where each network has its own image."""
        return self.classifier(self.features(images).flatten(1))


def stacked(networks: Sequence[DigitNet]) -> DigitNet:
    """One network that computes what these, of the same norm, do side by side; a single one stays itself."""
    first = networks[0]
    if len(networks) == 1:
        return first
    together = DigitNet(first.norm, network=first.network, groups=first.groups, ghost=first.ghost, stack=len(networks))
    states = [network.state_dict() for network in networks]
    # BatchNorm's count of batches is the only tensor without an axis, and the same for all
    together.load_state_dict(
        {
            name: torch.cat([state[name] for state in states]) if value.ndim else value
            for name, value in states[0].items()
        }
    )
    return together


def unstacked(together: DigitNet) -> list[DigitNet]:
    """The networks that `stacked` put together, as they are now; of a stack, on the CPU with weights of their own."""
    if together.stack == 1:
        return [together]
    one = partial(DigitNet, together.norm, network=together.network, groups=together.groups, ghost=together.ghost)
    networks = [one() for _ in range(together.stack)]
    for place, network in enumerate(networks):
        state = together.state_dict().items()
        network.load_state_dict(
            {name: value.chunk(together.stack)[place] if value.ndim else value for name, value in state}
        )
    return networks


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters())


def penalised_weights(model: nn.Module) -> list[Tensor]:
    """Weights of convolutions and linear layers: what weight decay acts on, and L1 unless told otherwise.

    Not the norms' scales and shifts: pulling a scale to 0 switches its channel off, another effect than sparse weights.
    """
    return [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def l1_parameters(model: nn.Module, on: str) -> list[Tensor]:
    """What L1 acts on: all `penalised_weights`, the "convolutions" or the "linear" layer's alone; or with `on` "all"
    every parameter, the norms' scales and shifts among them."""
    *convolutions, linear = penalised_weights(model)
    if on == "all":
        return list(model.parameters())
    return {"weights": [*convolutions, linear], "convolutions": convolutions, "linear": [linear]}[on]


def l1_norms(model: nn.Module, *, on: str = "weights", stack: int = 1) -> Float[Tensor, " stack"]:
    """Sum of the absolute values of each network of the stack, over its `l1_parameters`."""
    summed = l1_parameters(model, on)
    sums = [weight.abs().reshape(len(weight), -1).sum(1).view(stack, -1).sum(1) for weight in summed]
    return torch.stack(sums).sum(0)
