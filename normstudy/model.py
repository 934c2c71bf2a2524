"""The CNN of the study, and the table of its normalisation layers. Needs no other file of the package.

The main comparison is fair because every row of `NORMS` adds the same parameters, a scale and a shift per channel, to
the same network. The rows differ only in which activations share a mean and a variance.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

CLASSES = 10


def batch_norm(channels: int, *, groups: int) -> nn.Module:
    """y = (x - E[x]) / sqrt(Var[x] + 1e-5) * scale + shift, statistics over N, H, W: one pair a channel.

    In eval mode the running averages of training stand in for the batch's statistics.
    Ioffe and Szegedy 2015, "Batch Normalization", algorithms 1 and 2. `groups` has no meaning here.
    """
    return nn.BatchNorm2d(channels)


def group_norm(channels: int, *, groups: int) -> nn.Module:
    """The same formula, statistics over H, W and the channels of one group: `groups` pairs an image.

    Wu and He 2018, "Group Normalization", section 3. Raises `ValueError` when `groups` does not divide `channels`.
    """
    if channels % groups:
        raise ValueError(f"groups={groups} does not divide the {channels} channels of a layer")
    return nn.GroupNorm(groups, channels)


def layer_norm(channels: int, *, groups: int) -> nn.Module:
    """The same formula, statistics over C, H, W: one pair an image.

    Three layers are called "LayerNorm" for images. This one is GroupNorm(1, C): statistics over all of C, H, W as in
    Ba, Kiros and Hinton 2016, "Layer Normalization", section 3, and a scale and shift per channel, so that its
    parameters equal BatchNorm's. It is not `nn.LayerNorm([C, H, W])`, which has a scale and shift per pixel too and
    would add thousands of parameters to a net of 8,000; nor ConvNeXt's, which takes statistics over C alone at each
    pixel. `groups` has no meaning here.
    """
    return nn.GroupNorm(1, channels)


def instance_norm(channels: int, *, groups: int) -> nn.Module:
    """The same formula, statistics over H, W: one pair an image and channel.

    Ulyanov, Vedaldi and Lempitsky 2016, "Instance Normalization", section 2. `groups` has no meaning here.
    """
    return nn.InstanceNorm2d(channels, affine=True)


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


def no_norm(channels: int, *, groups: int) -> nn.Module:
    """No statistics, only the scale and shift: see `ChannelAffine`. `groups` has no meaning here."""
    return ChannelAffine(channels)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "bn": batch_norm,
    "gn": group_norm,
    "ln": layer_norm,
    "in": instance_norm,
    "none": no_norm,
}


class DigitNet(nn.Module):
    """28 x 28 grey digits to 10 logits, with 7,522 parameters whatever the norm.

    5x5 convolution to 8 channels at full resolution, max-pool, norm, ReLU; 3x3 to 16, norm, ReLU; 3x3 to 16, max-pool,
    norm, ReLU; 3x3 to 16, norm, ReLU, max-pool; linear on the 16 x 3 x 3 that are left. Two choices keep the comparison
    fair to GroupNorm and LayerNorm, whose statistics come from one image: the first layer sees every pixel (no
    stride), and the last features keep their place (no global pooling after a normalised layer).
    """

    def __init__(self, norm: str, *, groups: int = 4) -> None:
        """Raises `ValueError` for a norm not in the table, or groups that don't divide a layer's channels."""
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"unknown norm {norm!r}; choose from {', '.join(NORMS)}")

        def normalised(channels: int) -> list[nn.Module]:
            return [NORMS[norm](channels, groups=groups), nn.ReLU()]

        # no convolution bias: the norm's shift does its work, and all but `none` would subtract it
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2, bias=False),
            nn.MaxPool2d(2),  # before the norm, so that the costly 28 x 28 maps pass one layer less
            *normalised(8),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            *normalised(16),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            *normalised(16),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            *normalised(16),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(16 * 3 * 3, CLASSES)

    def forward(self, images: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 10"]:
        return self.classifier(self.features(images).flatten(1))


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters())


def penalised_weights(model: nn.Module) -> list[Tensor]:
    """Weights of convolutions and linear layers: what L1 and weight decay act on.

    Not the norms' scales and shifts: pulling a scale to 0 switches its channel off, another effect than sparse weights.
    """
    return [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def l1_norm(model: nn.Module) -> Float[Tensor, ""]:
    """Sum of the absolute values of the penalised weights."""
    return torch.stack([weight.abs().sum() for weight in penalised_weights(model)]).sum()
