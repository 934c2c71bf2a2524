"""What a trained network is beside its accuracy: under shift, calibrated, sparse.

Pure functions of networks, images and logits. What is drawn at random is drawn from a seed, so that every network is
asked about the same images.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int64, UInt8
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from normstudy.config import BINS
from normstudy.data import MEMORY_FORMAT, Split, affine_maps, normalise, resample
from normstudy.evaluate import Evaluation, evaluate, evaluation_of
from normstudy.model import DigitNet, penalised_weights

SEVERITIES = (1, 2, 3, 4, 5)
# what each corruption takes at severity 1 to 5
STRENGTHS: dict[str, tuple[float, float, float, float, float]] = {
    "noise": (20, 40, 60, 80, 100),  # standard deviation, grey levels of 255
    "blur": (0.5, 1.0, 1.5, 2.0, 2.5),  # standard deviation of the kernel, pixels
    "contrast": (0.7, 0.5, 0.3, 0.2, 0.1),  # share that is left of each pixel's distance from its image's mean
    "brightness": (25, 50, 75, 100, 125),  # added, grey levels
    "rotation": (15, 30, 45, 60, 75),  # degrees
    "occlusion": (4, 7, 10, 13, 16),  # side of the square, pixels
    "inversion": (0.2, 0.4, 0.6, 0.8, 1.0),  # share of the negative; at 1/2 nothing would be left but one grey
}
ZERO = 1e-3  # subgradient steps jump over 0 and never land on it, so "zero" needs a width; proximal ones do land
Pixels = Float[Tensor, "n 1 28 28"]


def noise(images: Pixels, deviation: float, generator: torch.Generator) -> Pixels:
    """Normal noise, of each pixel its own."""
    return images + deviation * torch.randn(images.shape, generator=generator)


def blur(images: Pixels, deviation: float, generator: torch.Generator) -> Pixels:
    """Gaussian blur; an image is mirrored at its edges."""
    return torch.from_numpy(gaussian_filter(images.numpy(), deviation, axes=(2, 3)))


def contrast(images: Pixels, share: float, generator: torch.Generator) -> Pixels:
    """Every pixel pulled to the mean of its image."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + share * (images - mean)


def rotation(images: Pixels, degrees: float, generator: torch.Generator) -> Pixels:
    """Images at even places turned one way, at odd ones the other."""
    draws = torch.full((len(images), 4), 0.5)
    draws[::2, 0], draws[1::2, 0] = 0, 1  # the two ends of what `affine_maps` draws angles from
    return resample(images, affine_maps(draws, rotation=degrees, translation=0.0, scale=0.0))


def occlusion(images: Pixels, side: float, generator: torch.Generator) -> Pixels:
    """A mid-grey square, wholly inside the image, at a random place of each image."""
    corners = (torch.rand(len(images), 2, generator=generator) * (28 - side + 1)).floor()
    hidden = (torch.arange(28) >= corners[..., None]) & (torch.arange(28) < corners[..., None] + side)
    return images.masked_fill((hidden[:, 0, :, None] & hidden[:, 1, None, :])[:, None], 128)


# what each corruption does at a strength; only noise and occlusion draw from the generator
CORRUPTIONS: dict[str, Callable[[Pixels, float, torch.Generator], Pixels]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "brightness": lambda images, added, _: images + added,
    "rotation": rotation,
    "occlusion": occlusion,
    "inversion": lambda images, share, _: (1 - share) * images + share * (255 - images),  # a blend with the negative
}


def corrupted(
    images: UInt8[Tensor, "n 1 28 28"], name: str, severity: int, *, seed: int = 0
) -> UInt8[Tensor, "n 1 28 28"]:
    """New images under a corruption of `CORRUPTIONS`, rounded and clipped to 0 to 255, on the CPU.

    The idea, corruptions of the test images that a network hasn't seen in training, in five severities, is that of
    Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    section 4, and, for digits, of Mu and Gilmer 2019, "MNIST-C". The corruptions and `STRENGTHS` here are our own:
    accuracies don't compare with theirs. The same seed draws the same noise and places at every severity.

    Raises `ValueError` for an unknown name or severity.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; choose from {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"unknown severity {severity!r}; choose from {', '.join(map(str, SEVERITIES))}")
    strength = float(STRENGTHS[name][SEVERITIES.index(severity)])
    changed = CORRUPTIONS[name](images.float(), strength, torch.Generator().manual_seed(seed))
    return changed.round().clamp(0, 255).byte()


def shifted(test: Split) -> list[tuple[str, int, Split]]:
    """Name, severity and images of every shift, the first ("none", 0): what `shift_table` asks each network about.

    Computed once for all networks. 10,000 test images become 280 MB. On the CPU.
    """
    shifts = [("none", 0, test)]
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            images = corrupted(test.images, name, severity)
            shifts.append((name, severity, Split(images=images, labels=test.labels, indices=test.indices)))
    return shifts


def shift_table(model: DigitNet, shifts: Iterable[tuple[str, int, Split]], *, batch: int = 0) -> pd.DataFrame:
    """How a network does on the images of `shifted`; the network itself stays as it is.

    Columns: statistics ("as trained", and for a network with BatchNorm a second row, "re-estimated": see
    `re_estimated`, and with `batch` a third: see `with_batch_statistics`), corruption, severity, accuracy (fraction),
    loss (cross-entropy in nats).
    """
    ways: dict[str, Callable[[Split], Evaluation]] = {"as trained": lambda split: evaluate(deepcopy(model), split)}
    if batch_norms(model):
        ways["re-estimated"] = lambda split: evaluate(re_estimated(model, split.images), split)
        if batch:
            ways[f"batches of {batch}"] = lambda split: with_batch_statistics(model, split, batch)
    rows = []
    for corruption, severity, split in shifts:
        for statistics, way in ways.items():
            found = way(split)
            rows.append((statistics, corruption, severity, found.accuracy, found.loss))
    return pd.DataFrame(rows, columns=["statistics", "corruption", "severity", "accuracy", "loss"])


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The layers whose statistics in eval mode are those of the training images."""
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


@torch.no_grad()
def re_estimated(model: DigitNet, images: UInt8[Tensor, "n 1 28 28"]) -> DigitNet:
    """A copy whose BatchNorm layers hold the mean and variance of these images, averaged over batches of about 250.

    No label is used and no weight changes: Schneider et al. 2020, "Improving robustness against common corruptions by
    covariate shift adaptation", whose N, the weight of the training images' statistics, is 0 here.
    """
    model = deepcopy(model).train()
    for layer in batch_norms(model):
        layer.reset_running_stats()
        layer.momentum = None  # the plain average over batches
    for _, batch in spread(images, math.ceil(len(images) / 250)):
        model(batch)
    return model.eval()


@torch.no_grad()
def with_batch_statistics(model: DigitNet, split: Split, size: int) -> Evaluation:
    """What the network answers when BatchNorm takes the mean and variance of each batch of `size` images, or one more:
    Nado et al. 2020, "Evaluating Prediction-Time Batch Normalization for Robustness under Covariate Shift".

    No label is used and no weight changes.
    """
    model = deepcopy(model).train()  # only BatchNorm is another in training
    logits = torch.empty(len(split), 10)
    for places, batch in spread(split.images, max(1, len(split) // size)):
        logits[places] = model(batch)
    return evaluation_of(logits, split)


def spread(images: UInt8[Tensor, "n 1 28 28"], batches: int) -> Iterator[tuple[slice, Float[Tensor, "b 1 28 28"]]]:
    """The images as a network takes them, in so many batches, each with its places.

    Not in order: no small batch is left over, and both halves of MNIST's test set, of other writers, are in each.
    """
    for first in range(batches):
        places = slice(first, None, batches)
        yield places, normalise(images[places]).contiguous(memory_format=MEMORY_FORMAT[images.device.type])


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far a network's confidence on the test images can be trusted, before and after temperature scaling.

    `nll` is the mean cross-entropy in nats, `ece` the expected calibration error as a fraction. `reliability` has one
    row for each bin of the confidence that holds an image. Columns: scaled (whether by the temperature), bin (0 to 14,
    from confidence 0 to 1), count (images), confidence (their mean), accuracy (as a fraction).
    """

    temperature: float
    nll: float
    nll_scaled: float
    ece: float
    ece_scaled: float
    reliability: pd.DataFrame


def calibration(
    val_logits: Float[Tensor, "m classes"],
    val_labels: Int64[Tensor, " m"],
    test_logits: Float[Tensor, "n classes"],
    test_labels: Int64[Tensor, " n"],
) -> Calibration:
    """Confidence against accuracy on the test images, the temperature fitted to the validation images.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", sections 2 and 4.2. In double precision.
    """
    temperature = fitted_temperature(val_logits.double(), val_labels)
    logits = test_logits.double()
    before, after = reliability(logits, test_labels), reliability(logits / temperature, test_labels)
    both = pd.concat([before.assign(scaled=False), after.assign(scaled=True)], ignore_index=True)
    return Calibration(
        temperature=temperature,
        nll=functional.cross_entropy(logits, test_labels).item(),
        nll_scaled=functional.cross_entropy(logits / temperature, test_labels).item(),
        ece=expected_calibration_error(before),
        ece_scaled=expected_calibration_error(after),
        reliability=both[["scaled", *before.columns]],
    )


def fitted_temperature(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> float:
    """The T for which softmax(logits / T) has the least cross-entropy: Guo et al. 2017, section 4.2.

    Looked for from 1/100 to 100. It is near 1/100 where every image is classified correctly, whose least is at T = 0,
    and near 100 where the logits know nothing of the labels. Cross-entropy is convex in 1 / T, so one search finds it.
    """
    found = minimize_scalar(
        lambda log: functional.cross_entropy(logits / math.exp(log), labels).item(),
        bounds=(math.log(1 / 100), math.log(100)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(found.x)


def cross_fitted(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"], *, folds: int = 10) -> pd.DataFrame:
    """The temperature without images held out for it: each fold of the images is scaled by that of all others.

    A row a fold, which has every tenth image. Columns: fold, temperature (fitted on the others), temperature_all
    (fitted on all, for the jackknife over folds), nll and nll_scaled (mean cross-entropy of the fold in nats, before
    and after). In double precision.
    """
    logits, place = logits.double(), torch.arange(len(labels)) % folds
    every = fitted_temperature(logits, labels)
    rows = []
    for fold in range(folds):
        own, others = place == fold, place != fold
        fitted = fitted_temperature(logits[others], labels[others])
        nll = functional.cross_entropy(logits[own], labels[own]).item()
        rows.append((fold, fitted, every, nll, functional.cross_entropy(logits[own] / fitted, labels[own]).item()))
    return pd.DataFrame(rows, columns=["fold", "temperature", "temperature_all", "nll", "nll_scaled"])


def reliability(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> pd.DataFrame:
    """Images by the softmax probability of their prediction, in 15 bins ((m - 1) / 15, m / 15], without the empty ones.

    Columns: bin (0 to 14), count, confidence (mean), accuracy (fraction). Guo et al. 2017, section 2.
    """
    confidence = logits.softmax(dim=1).amax(dim=1)
    inner_edges = torch.arange(1, BINS, dtype=confidence.dtype) / BINS
    images = pd.DataFrame(
        {
            "bin": torch.bucketize(confidence, inner_edges).numpy(),
            "confidence": confidence.numpy(),
            "correct": (logits.argmax(dim=1) == labels).numpy(),
        }
    )
    bins = images.groupby("bin").agg(
        count=("confidence", "size"), confidence=("confidence", "mean"), accuracy=("correct", "mean")
    )
    return bins.reset_index()


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """Mean over the images of |accuracy - confidence| of their bin, as a fraction; `bins` is of `reliability`.

    Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; as Guo et al.
    2017, equation 3.
    """
    return float((bins["count"] * (bins["accuracy"] - bins["confidence"]).abs()).sum() / bins["count"].sum())


def zero_share(model: nn.Module) -> float:
    """Fraction of the `penalised_weights` that are closer to 0 than `ZERO`."""
    weights = torch.cat([weight.detach().flatten() for weight in penalised_weights(model)])
    return (weights.abs() < ZERO).double().mean().item()
