"""The configuration of one trial: the only source of names, types, defaults and bounds.

The command line, the MLproject parameters and the notebook derive from `TrainConfig`; tests compare them.
"""

import hashlib
import reprlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from normstudy.errors import ConfigError, one_line
from normstudy.files import data_digest

TRAIN_IMAGES = 60_000
TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
L1 = 1e-5  # lambda of the recipe, chosen on held-out images: experiments/recipe.py
VARIANTS: tuple[dict[str, Any], ...] = ({"norm": "gn"}, {"norm": "ln"}, {"norm": "bn", "l1": L1})  # the main three
# Fields added since runs were logged: at its default such a field is left out of the key, so that their keys stand.
ADDED = ("l1_on", "l1_method", "ghost_batch_size", "init", "ema_decay", "held_out_by", "kernels")

CORRUPTIONS = ("noise", "blur", "contrast", "brightness", "rotation", "occlusion", "inversion")  # of robustness.py
MNIST_C = (  # of mnist_c.py
    *("shot noise", "impulse noise", "glass blur", "motion blur", "shear", "scale", "rotate", "brightness"),
    *("translate", "stripe", "fog", "spatter", "dotted line", "zigzag", "canny edges"),
)
SHIFTED_EVERY = 4  # under a corruption a network is asked about every fourth test image, which saves time
STATISTICS_BATCH = 32  # images whose own statistics BatchNorm takes under MNIST-C's corruptions
BINS = 15  # of confidence, in its reliability tables

# The rows of NORMS and NETWORKS in model.py, which takes 2 s to import; a test compares them.
Norm = Literal["bn", "gn", "ln", "in", "none"]
NORMS_IN_WORDS = "bn: BatchNorm, gn: GroupNorm, ln: LayerNorm, in: InstanceNorm, none: no normalisation"
CoarseNetwork = Literal["plain", "wide", "skip", "late", "deep", "deepskipless", "small", "narrow", "narrowplain"]
FineNetwork = Literal["fine", "finer", "finewide", "finelarge", "finelast", "finedeep"]  # their first kernels are 3x3
Network = Literal[CoarseNetwork, FineNetwork]
Number = Annotated[float, AfterValidator(lambda value: value + 0.0)]  # -0.0 becomes 0.0: one trial has one key


class TrainConfig(BaseModel):
    """One trial. Everything that decides its numbers stands here, and nothing else does.

    Raises `ConfigError` (through `TrainConfig.of`) or pydantic's `ValidationError` for a value out of bounds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    norm: Norm = Field("gn", description=NORMS_IN_WORDS)
    l1: Number = Field(0.0, ge=0, description="lambda of the L1 penalty, summed over the parameters that l1_on selects")
    l1_on: Literal["weights", "convolutions", "linear", "all"] = Field(
        "weights", description="convolution and linear weights, one kind of these, or all parameters"
    )
    l1_method: Literal["subgradient", "proximal"] = Field(
        "subgradient", description="the penalty is part of the loss, or a soft threshold follows each step"
    )
    network: Network = Field("plain", description="network, a row of NETWORKS in model.py")
    dataset: Literal["mnist", "fashion"] = Field("mnist", description="MNIST, or Fashion-MNIST from a folder of yours")
    groups: int = Field(4, ge=1, description="groups of GroupNorm; must divide each layer's channels")
    ghost_batch_size: int = Field(
        0, ge=0, description="images that share BatchNorm's statistics in training; 0: the batch"
    )
    init: Literal["default", "he"] = Field("default", description="initial convolutions: torch's, or He et al. 2015")
    epochs: int = Field(20, ge=1, description="passes over the training images; the last is the result")
    batch_size: int = Field(32, ge=2, description="images per step")
    lr: Number = Field(0.03, gt=0, description="peak learning rate of the one-cycle schedule")
    momentum: Number = Field(0.9, ge=0, lt=1, description="Nesterov momentum of SGD")
    weight_decay: Number = Field(1e-4, ge=0, description="L2 decay, on convolution and linear weights only")
    warmup: Number = Field(0.3, gt=0, lt=1, description="fraction of the steps during which the learning rate rises")
    ema_decay: Number = Field(0.0, ge=0, lt=1, description="of a moving average of the weights, the result; 0: none")
    rotation: Number = Field(10.0, ge=0, le=180, description="augmentation: largest rotation, in degrees")
    translation: Number = Field(2.0, ge=0, le=14, description="augmentation: largest shift, in pixels")
    scale: Number = Field(0.1, ge=0, lt=1, description="augmentation: largest change of size, as a fraction")
    seed: int = Field(0, ge=0, lt=2**31, description="decides initial weights, data order and augmentation")
    val_size: int = Field(0, ge=0, lt=TRAIN_IMAGES, description="training images held out for validation")
    held_out_by: Literal["study", "seed"] = Field(
        "study", description="the same images are held out for every trial, or others for each seed"
    )
    train_size: int = Field(0, ge=0, le=TRAIN_IMAGES, description="training images used; 0: all not held out")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train")
    threads: int = Field(1, ge=1, le=256, description="CPU threads; changing this changes results slightly")
    kernels: Literal["exact", "fast"] = Field("exact", description="fast: TF32, not deterministic; on CUDA only")

    @model_validator(mode="after")
    def _data_suffice(self) -> "TrainConfig":
        left = TRAIN_IMAGES - self.val_size
        if self.train_size > left:
            raise ValueError(
                f"train_size {self.train_size} is more than the {left} images that val_size {self.val_size} leaves"
            )
        if self.batch_size > self.training_images:
            raise ValueError(f"batch_size {self.batch_size} is more than the {self.training_images} training images")
        ghost, size = self.ghost_batch_size, self.batch_size
        if ghost and (self.norm != "bn" or not 2 <= ghost < size or size % ghost):
            raise ValueError(f"ghost_batch_size {ghost} must divide batch_size {size}, from 2 on, and needs norm bn")
        if self.l1_method == "proximal" and not self.l1:
            raise ValueError("l1_method proximal needs l1 above 0")
        return self

    @classmethod
    def of(cls, **values: Any) -> "TrainConfig":
        """As the constructor, but a bad value raises `ConfigError` with one line: name, value, what was expected."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(in_one_line(error)) from None

    @property
    def training_images(self) -> int:
        """Number of images trained on."""
        return self.train_size or TRAIN_IMAGES - self.val_size

    @property
    def split(self) -> int:
        """Which images are held out: 0 for those of every trial, a number of its own for each seed that draws them."""
        return self.seed + 1 if self.held_out_by == "seed" else 0

    @property
    def variant(self) -> str:
        """The name that people read: `GN`, or `BN + L1` where the penalty is on."""
        return self.norm.upper() + (" + L1" if self.l1 else "")

    @property
    def trial_key(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical configuration and the digest of the data.

        `device` is left out: it says where a trial runs, not which trial it is. So is each of `ADDED` at its default.
        """
        fields = type(self).model_fields
        usual = {name for name in ADDED if getattr(self, name) == fields[name].default}
        canonical = self.model_dump_json(exclude={"device", *usual}) + data_digest(self.dataset)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def command(self) -> str:
        """The shell command that repeats this trial."""
        changed = {name: value for name, value in self if value != type(self).model_fields[name].default}
        options = [f"--{name.replace('_', '-')} {value}" for name, value in {"norm": self.norm, **changed}.items()]
        return " ".join(["python -m normstudy train", *options])


def in_one_line(error: ValidationError) -> str:
    """Each value that `TrainConfig` refuses, with its name and what was expected."""
    return "; ".join(_refusal(detail) for detail in error.errors())


def _refusal(detail: Any) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = detail["loc"][0]
    if detail["type"] == "extra_forbidden":
        return f"unknown setting {one_line(repr(name))}; choose from {', '.join(TrainConfig.model_fields)}"
    return f"{name}={_as_given(detail['input'])}: {message[0].lower()}{message[1:]}"


def _as_given(value: Any) -> str:
    """A refused value: text as it was given unless it would break or hide the line, anything else as Python has it."""
    if isinstance(value, str):
        return value if value.isprintable() and len(value) <= 100 else reprlib.repr(value)
    return one_line(reprlib.repr(value))


def group_labels(configs: Sequence[TrainConfig]) -> list[str]:
    """The name of each configuration's group, that is of all trials like it but for the seed.

    It is the variant and, where the trials of some variant differ in other settings, these settings, for every group
    the same; a penalty of 0 isn't named.
    """
    by_variant: dict[str, list[TrainConfig]] = {}
    for config in configs:
        by_variant.setdefault(config.variant, []).append(config)
    differing = [
        name
        for name in TrainConfig.model_fields
        if name not in ("seed", "device")  # `device` isn't part of the trial's key, either
        and any(len({getattr(config, name) for config in trials}) > 1 for trials in by_variant.values())
    ]

    def label(config: TrainConfig) -> str:
        settings = [f"{name} {_shortest(getattr(config, name))}" for name in differing if _has_effect(name, config)]
        return ", ".join([config.variant, *settings])

    return [label(config) for config in configs]


def _has_effect(name: str, config: TrainConfig) -> bool:
    """False for what a penalty of 0 would act on, and for groups and ghosts where the norm has none."""
    if name in ("l1", "l1_on", "l1_method"):
        return bool(config.l1)
    return config.norm == {"groups": "gn", "ghost_batch_size": "bn"}.get(name, config.norm)


def _shortest(value: Any) -> str:
    """As short as `:g` makes it, where that is the same number: no two groups share a label."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
