"""The fifteen corruptions of MNIST-C: Mu and Gilmer 2019, "MNIST-C: A Robustness Benchmark for Computer Vision",
arXiv 1906.02337.

Formulas, and the one severity of each, are those of the code that the authors published with their data set; the random
draws are our own, so the images are others than theirs. All work on float pixels from 0 to 1, on the CPU, on any
number of images.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.random import Generator
from scipy.ndimage import gaussian_filter
from skimage.feature import canny
from torch import Tensor

from normstudy.data import Split, resample

SIZE = 28
Images = Float[np.ndarray, "n 28 28"]
Numbers = Float[np.ndarray, " n"]


def shot_noise(images: Images, draw: Generator) -> Images:
    """Light as counts of photons: white is 3 of them in the mean."""
    return draw.poisson(3 * images) / 3


def impulse_noise(images: Images, draw: Generator) -> Images:
    """Each pixel becomes black or white, either with probability 0.085."""
    place = draw.random(images.shape)
    return np.where(place < 0.17, (place < 0.085).astype(float), images)


def glass_blur(images: Images, draw: Generator) -> Images:
    """Neighbouring pixels change places, each with probability 1/2, twice over, between two blurs.

    The authors' call takes the columns of a grey image for colours, so it blurs along the columns alone; so does this.
    """
    pixels, every = np.floor(255 * blurred(images, (0.7, 0.0))), np.arange(len(images))
    for row, column in 2 * [(row, column) for row in range(27, 1, -1) for column in range(27, 1, -1)]:
        chosen = every[draw.random(len(every)) < 0.5]
        right, down = draw.integers(-1, 1, (2, len(chosen)))  # -1 or 0
        other = chosen, row + down, column + right
        pixels[chosen, row, column], pixels[other] = pixels[other], pixels[chosen, row, column]
    return blurred(pixels / 255, (0.7, 0.0))


def motion_blur(images: Images, draw: Generator) -> Images:
    """A one-sided blur of 21 pixels in a direction within 45 degrees of the rows: ImageMagick's, sigma 3."""
    angles, steps = np.radians(draw.uniform(-45, 45, (len(images), 1, 1))), np.arange(21)
    weights = np.exp(-(steps**2) / 18)
    row, column = np.arange(SIZE)[:, None], np.arange(SIZE)
    found = np.zeros_like(images)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down, right = (np.ceil(step * part - 0.5).astype(int) for part in (np.sin(angles), np.cos(angles)))
        rows, columns = (place.clip(0, SIZE - 1) for place in (row + down, column + right))
        found += weight * images[np.arange(len(images))[:, None, None], rows, columns]
    return found


def shear(images: Images, draw: Generator) -> Images:
    """Each row slides sin(0.4) pixels farther than the one before, either way; the height grows by 1 / cos(0.4)."""
    turn = either_way(0.4, images, draw)
    return warped(images, (np.ones_like(turn), -np.sin(turn), 0 * turn, np.cos(turn)))


def scale(images: Images, draw: Generator) -> Images:
    """To 0.7 of its size."""
    return warped(images, tuple(np.full(len(images), value) for value in (1 / 0.7, 0.0, 0.0, 1 / 0.7)))


def rotate(images: Images, draw: Generator) -> Images:
    """By 0.4 radians, either way."""
    turn = either_way(0.4, images, draw)
    return warped(images, (np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)))


def brightness(images: Images, draw: Generator) -> Images:
    """Half of white is added."""
    return images + 0.5


def translate(images: Images, draw: Generator) -> Images:
    """By 3 pixels along both axes, either way."""
    found = np.zeros_like(images)
    moves = 3 * draw.choice([-1, 1], (len(images), 2))
    for down, right in {tuple(move) for move in moves.tolist()}:
        those = (moves == (down, right)).all(axis=1)
        padded = np.pad(images[those], ((0, 0), (3, 3), (3, 3)))
        found[those] = padded[:, 3 - down : 31 - down, 3 - right : 31 - right]
    return found


def stripe(images: Images, draw: Generator) -> Images:
    """The left and the right quarter become their negative."""
    outer = np.r_[:7, 21:28]
    found = images.copy()
    found[:, :, outer] = 1 - found[:, :, outer]
    return found


def fog(images: Images, draw: Generator) -> Images:
    """A cloud of up to three times white is added, and the sum brought back to the brightness of the image."""
    clouds = np.concatenate([plasma(len(part), draw) for part in np.array_split(images, -(-len(images) // 100))])
    brightest = images.max(axis=(1, 2), keepdims=True)
    return (images + 3 * clouds) * brightest / (brightest + 3)


def spatter(images: Images, draw: Generator) -> Images:
    """Dark grey drops, where smoothed noise is above a threshold."""
    liquid = blurred(draw.normal(0.65, 0.3, images.shape), (1.0, 1.0))
    drops = blurred((liquid > 0.65).astype(float), (1.5, 1.5))
    drops[drops < 0.8] = 0
    return images * (1 - drops) + 63 / 255 * drops


def dotted_line(images: Images, draw: Generator) -> Images:
    """A line from the left edge to the right one, of two columns in four."""
    first, last = draw.integers(0, 27, (2, len(images))).astype(float)
    ends = np.zeros(len(images)), np.full(len(images), 27.0)
    return images + line(ends[0], first, ends[1], last) * (np.arange(SIZE) // 2 % 2)


def zigzag(images: Images, draw: Generator) -> Images:
    """A zigzag from column 2 to column 25 around a line that rises or falls by at most five rows."""
    row, rise = draw.integers(0, 27, len(images)), draw.integers(-5, 5, len(images))
    angle = np.arctan(rise / 23)
    length, zero = 23 / np.cos(angle), np.zeros_like(angle)
    turns = [(zero + 4 * turn + 2, zero + 2 * (-1) ** turn) for turn in range(6)]
    # the height of the last end is that of the authors' formula; `length` is at most 23.6
    ends = [(zero, zero), *turns, (length, -1 / (length - 20))]
    columns = [np.cos(angle) * x - np.sin(angle) * y + 2 for x, y in ends]
    rows = [np.sin(angle) * x + np.cos(angle) * y + row for x, y in ends]
    found = images
    for end in range(1, len(ends)):
        found = (found + line(columns[end - 1], rows[end - 1], columns[end], rows[end])).clip(0, 1)
    return found


def canny_edges(images: Images, draw: Generator) -> Images:
    """The edges alone: Canny 1986, "A Computational Approach to Edge Detection", by scikit-image."""
    return np.stack([canny(image) for image in images]).astype(float)


CORRUPTIONS: dict[str, Callable[[Images, Generator], Images]] = {
    "shot noise": shot_noise,
    "impulse noise": impulse_noise,
    "glass blur": glass_blur,
    "motion blur": motion_blur,
    "shear": shear,
    "scale": scale,
    "rotate": rotate,
    "brightness": brightness,
    "translate": translate,
    "stripe": stripe,
    "fog": fog,
    "spatter": spatter,
    "dotted line": dotted_line,
    "zigzag": zigzag,
    "canny edges": canny_edges,
}


def mnist_c(test: Split, *, seed: int = 0) -> list[tuple[str, int, Split]]:
    """Name, severity (0 or 1) and images of every corruption, the first ("none", 0), for `robustness.shift_table`."""
    found = [("none", 0, test)]
    for name in CORRUPTIONS:
        images = under(test.images, name, seed=seed)
        found.append((name, 1, Split(images=images, labels=test.labels, indices=test.indices)))
    return found


def under(images: UInt8[Tensor, "n 1 28 28"], name: str, *, seed: int = 0) -> UInt8[Tensor, "n 1 28 28"]:
    """New images under a corruption of `CORRUPTIONS`, rounded and clipped to 0 to 255; a seed decides the draws."""
    changed = CORRUPTIONS[name](images[:, 0].numpy() / 255.0, np.random.default_rng(seed))
    return torch.from_numpy(np.rint(255 * changed).clip(0, 255).astype(np.uint8))[:, None]


def either_way(turn: float, images: Images, draw: Generator) -> Numbers:
    """Plus or minus this angle, for each image."""
    return turn * draw.choice([-1.0, 1.0], len(images))


def blurred(images: Images, deviations: tuple[float, float]) -> Images:
    """By a Gaussian of these standard deviations along columns and rows, in pixels; the edge pixel goes on outside."""
    return gaussian_filter(images, deviations, mode="nearest", axes=(1, 2))


def warped(images: Images, matrix: tuple[Numbers, ...]) -> Images:
    """Each image under its matrix, from places of the new image to places of the old, the centre fixed."""
    xx, xy, yx, yy = map(torch.from_numpy, matrix)
    zero = torch.zeros_like(xx)
    maps = torch.stack([xx, xy, zero, yx, yy, zero], dim=-1).float()
    return resample(torch.from_numpy(images).float()[:, None], maps)[:, 0].double().numpy()


def line(x0: Numbers, y0: Numbers, x1: Numbers, y1: Numbers) -> Images:
    """Each a line from (x0, y0) to (x1, y1), x1 > x0: 1 on it, falling to 0 where it is 1.45 rows above or below."""
    row, column = np.arange(SIZE)[:, None], np.arange(SIZE)
    x0, y0, x1, y1 = (value[:, None, None] for value in (x0, y0, x1, y1))
    apart = np.abs(row - ((y1 - y0) / (x1 - x0) * (column - x0) + y0))
    bright = (np.log(1 - apart.clip(0, 2.3 - 1e-10) / 2.3) + 1).clip(0, 1)
    inside = (column >= np.floor(x0)) & (column < np.ceil(x1))
    return bright * inside


def plasma(count: int, draw: Generator, *, size: int = 256, decay: float = 1.4) -> Images:
    """Clouds from 0 to 1 by the diamond-square algorithm, on a torus of `size` x `size`, of which a corner is kept."""
    maps, step, roughness = np.zeros((count, size, size)), size, 100.0

    def mean_with_noise(total: Float[np.ndarray, "n a b"]) -> Float[np.ndarray, "n a b"]:
        return total / 4 + roughness * draw.uniform(-roughness, roughness, total.shape)

    while step > 1:
        half = step // 2
        corners = maps[:, ::step, ::step]
        below = corners + np.roll(corners, -1, axis=1)
        maps[:, half::step, half::step] = mean_with_noise(below + np.roll(below, -1, axis=2))
        centres, corners = maps[:, half::step, half::step], maps[:, ::step, ::step]
        beside = corners + np.roll(corners, -1, axis=2) + centres + np.roll(centres, 1, axis=1)
        above = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=2)
        maps[:, ::step, half::step], maps[:, half::step, ::step] = mean_with_noise(beside), mean_with_noise(above)
        step, roughness = half, roughness / decay
    maps -= maps.min(axis=(1, 2), keepdims=True)
    return maps[:, :SIZE, :SIZE] / maps.max(axis=(1, 2), keepdims=True)  # no view, which would keep 0.5 MB each
