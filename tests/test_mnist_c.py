"""The corruptions of MNIST-C are those of the published formulas: what each leaves, or the formula a second time."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from normstudy import config, mnist_c
from normstudy.data import Split
from normstudy.mnist_c import CORRUPTIONS, line, plasma, under

GREY = torch.full((200, 1, 28, 28), 102, dtype=torch.uint8)
BLACK, WHITE = torch.zeros_like(GREY), torch.full_like(GREY, 255)
WITHOUT_DRAWS = {"scale", "brightness", "stripe", "canny edges"}


def bar(count: int = 60) -> torch.Tensor:
    """An upright bar in the middle of each image."""
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 8:20, 13:15] = 200
    return images


def test_the_configuration_names_every_corruption() -> None:
    assert tuple(CORRUPTIONS) == config.MNIST_C


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_seed_decides_the_draws_and_the_images_stay_as_they_are(name: str) -> None:
    images = bar()
    first, again, other = (under(images, name, seed=seed) for seed in (1, 1, 2))
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name in WITHOUT_DRAWS)
    assert torch.equal(images, bar())
    assert not torch.equal(first, images)


def test_every_corruption_stands_beside_the_images_without_one() -> None:
    test = Split(images=bar(4), labels=torch.arange(4), indices=torch.arange(4))
    found = mnist_c.mnist_c(test)
    assert [(name, severity) for name, severity, _ in found] == [("none", 0), *((name, 1) for name in CORRUPTIONS)]
    assert found[0][2] is test
    assert all(torch.equal(split.labels, test.labels) for _, _, split in found)


def test_noise_has_the_published_strength() -> None:
    impulse = under(GREY, "impulse noise")
    assert (impulse == 255).float().mean().item() == pytest.approx(0.085, abs=0.004)
    assert (impulse == 0).float().mean().item() == pytest.approx(0.085, abs=0.004)
    assert set(impulse.unique().tolist()) == {0, 102, 255}
    shot = under(GREY, "shot noise").float() / 255
    counts = torch.poisson(torch.full((400_000,), 3 * 102 / 255), generator=torch.Generator().manual_seed(0))
    assert shot.mean().item() == pytest.approx((counts / 3).clamp(max=1).mean().item(), abs=0.005)
    assert set((3 * shot).unique().round(decimals=3).tolist()) == {0, 1, 2, 3}
    assert not under(BLACK, "shot noise").any()


def tilt(image: torch.Tensor) -> float:
    """Columns that the middle of the bar moves to the right, a row, over the middle rows."""
    rows = image[10:18].double()
    middles = (rows * torch.arange(28)).sum(1) / rows.sum(1)
    return float(np.polyfit(np.arange(8), middles.numpy(), 1)[0])


def test_geometry_is_the_published_one_either_way() -> None:
    for name, slope in (("rotate", math.tan(0.4)), ("shear", math.sin(0.4))):
        found = [tilt(image[0]) for image in under(bar(), name)]
        assert {round(abs(value), 1) for value in found} == {round(slope, 1)}
        assert min(found) == pytest.approx(-slope, abs=0.03)
        assert max(found) == pytest.approx(slope, abs=0.03)
    for name, height in (("scale", 0.7), ("shear", 1 / math.cos(0.4))):
        assert tallness(under(bar(1), name)[0, 0]) / tallness(bar(1)[0, 0]) == pytest.approx(height, abs=0.03)


def tallness(image: torch.Tensor) -> float:
    """The root mean square distance of what is bright from the middle row, in pixels."""
    rows = image.double().sum(1)
    return math.sqrt((rows * (torch.arange(28) - 13.5) ** 2).sum() / rows.sum())


def test_images_are_moved_by_three_pixels_along_both_axes_in_all_four_ways() -> None:
    found = set()
    for image in under(bar(), "translate"):
        [way] = [(y, x) for y in (-3, 3) for x in (-3, 3) if torch.equal(image, bar(1)[0].roll((y, x), (1, 2)))]
        found.add(way)
    assert len(found) == 4


def test_stripe_inverts_the_outer_quarters_and_brightness_adds_half_of_white() -> None:
    striped = under(bar(1), "stripe")[0, 0]
    assert torch.equal(striped[:, 7:21], bar(1)[0, 0, :, 7:21])
    assert striped[:, [*range(7), *range(21, 28)]].eq(255).all()
    bright = under(bar(1), "brightness")[0, 0].float()
    assert (bright - (bar(1)[0, 0].float() + 127.5).clamp(max=255)).abs().max() <= 0.5


def test_motion_blur_leaves_a_trail_to_one_side_that_weakens_as_a_gaussian_of_three_pixels() -> None:
    images = BLACK[:50].clone()
    images[:, 0, 14, 20] = 255
    weights = np.exp(-(np.arange(21) ** 2) / 18)
    weights /= weights.sum()
    for image in under(images, "motion blur")[:, 0]:
        assert image[14, 20] == pytest.approx(255 * weights[0], abs=1)
        rows, columns = np.nonzero(image.numpy())
        assert (columns <= 20).all()
        assert (abs(rows - 14) <= 20 - columns + 1).all()  # within 45 degrees
        away = (image[rows, columns].numpy() * np.hypot(rows - 14, columns - 20)).sum() / image.sum().item()
        assert away == pytest.approx((weights * np.arange(21)).sum(), abs=0.3)
        assert image.sum().item() == pytest.approx(255, abs=12)


class NoChangeOfPlace(np.random.Generator):
    """Of its uniform draws none is below 1/2."""

    def random(self, *args: Any, **kwargs: Any) -> Any:
        return 0.5 + super().random(*args, **kwargs) / 2


def test_glass_blur_mixes_neighbours_and_blurs_along_columns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.equal(under(WHITE, "glass blur"), WHITE)
    mixed = under(bar(), "glass blur")
    assert mixed.float().sum().item() == pytest.approx(bar().sum().item(), rel=0.02)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: NoChangeOfPlace(np.random.PCG64(seed)))
    found = under(bar(1), "glass blur")[0, 0].numpy()
    once = np.floor(gaussian_filter1d(bar(1)[0, 0].double().numpy(), 0.7, axis=0, mode="nearest"))
    np.testing.assert_allclose(found, gaussian_filter1d(once, 0.7, axis=0, mode="nearest"), atol=0.5)
    assert not torch.equal(mixed[0, 0], torch.from_numpy(found))


def slow_plasma(draw: np.random.Generator, size: int) -> np.ndarray:
    """A cloud, one place at a time."""
    cloud, step, roughness = np.zeros((size, size)), size, 100.0
    while step > 1:
        half, many = step // 2, size // step
        noise = draw.uniform(-roughness, roughness, (1, many, many))[0]
        for i in range(many):
            for j in range(many):
                y, x = i * step, j * step
                corners = [cloud[(y + a) % size, (x + b) % size] for a in (0, step) for b in (0, step)]
                cloud[y + half, x + half] = sum(corners) / 4 + roughness * noise[i, j]
        noises = [draw.uniform(-roughness, roughness, (1, many, many))[0] for _ in range(2)]
        for i in range(many):
            for j in range(many):
                for noise, (y, x) in zip(
                    noises, ((i * step, j * step + half), (i * step + half, j * step)), strict=True
                ):
                    around = ((y - half, x), (y + half, x), (y, x - half), (y, x + half))
                    cloud[y, x] = sum(cloud[a % size, b % size] for a, b in around) / 4 + roughness * noise[i, j]
        step, roughness = half, roughness / 1.4
    cloud -= cloud.min()
    return cloud / cloud.max()


def test_clouds_are_those_of_the_diamond_square_algorithm() -> None:
    [found] = plasma(1, np.random.default_rng(4), size=32)
    np.testing.assert_allclose(found, slow_plasma(np.random.default_rng(4), 32)[:28, :28], rtol=1e-9)
    whole = plasma(3, np.random.default_rng(4))
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert not np.allclose(whole[0], whole[1])


def test_fog_keeps_the_brightest_pixel_of_an_image_the_highest_that_there_can_be() -> None:
    assert not under(BLACK[:3], "fog").any()
    white = under(WHITE[:150], "fog")
    assert 63 <= white.min() < 75 < 240 < white.max() <= 255  # (1 + 3 clouds) / 4 of white
    assert under(bar(), "fog").max() <= 200


def test_drops_are_dark_grey() -> None:
    on_black, on_white = under(BLACK, "spatter"), under(WHITE, "spatter")
    assert torch.equal(on_black > 0, on_white < 255)
    assert 50 <= on_black[on_black > 0].min() <= on_black.max() <= 63
    noise = np.random.default_rng(0).normal(0.65, 0.3, (200, 28, 28))
    for image, drawn in zip(on_black[:5, 0], noise, strict=False):
        wet = gaussian_filter((gaussian_filter(drawn, 1, mode="nearest") > 0.65) * 1.0, 1.5, mode="nearest")
        np.testing.assert_allclose(image, np.where(wet < 0.8, 0, 63 * wet), atol=0.5)


def test_a_line_is_the_formula_pixel_by_pixel() -> None:
    x0, y0, x1, y1 = 2.5, 3.0, 20.2, 17.0
    [found] = line(*(np.array([value]) for value in (x0, y0, x1, y1)))
    for row in range(28):
        for column in range(28):
            apart = abs(row - ((y1 - y0) / (x1 - x0) * (column - x0) + y0))
            value = max(0.0, math.log(1 - apart / 2.3) + 1) if apart < 2.3 and 2 <= column < 21 else 0.0
            assert found[row, column] == pytest.approx(value)


def test_lines_run_from_edge_to_edge_dotted_and_as_a_zigzag() -> None:
    dotted, zigzag = under(BLACK, "dotted line")[:, 0], under(BLACK, "zigzag")[:, 0]
    drawn = dotted.amax(dim=(0, 1)) > 0
    assert drawn.tolist() == [column // 2 % 2 == 1 and column < 27 for column in range(28)]
    inside = zigzag.amax(dim=1) > 0  # of each image, which columns it has something in
    assert not inside[:, :2].any()
    assert inside[:, 2:24].float().mean() > 0.95  # a part may lie above or below the image
    level = next(image for image in zigzag if tilt_of_peaks(image) == 0)
    heights = [int(level[:, 2 + 4 * turn + 2].argmax()) for turn in range(6)]
    assert {heights[turn] - heights[turn + 2] for turn in range(4)} == {0}
    assert heights[0] - heights[1] == 4


def tilt_of_peaks(image: torch.Tensor) -> int | None:
    """By how much a zigzag's turns at columns 4 and 20 differ in height; none where it leaves the image."""
    if not image[[0, 1, 26, 27]].any():
        return int(image[:, 4].argmax() - image[:, 20].argmax())
    return None


def test_edges_alone_are_left() -> None:
    edges = under(bar(1), "canny edges")
    assert set(edges.unique().tolist()) == {0, 255}
    assert not edges[0, 0, 13, 13:15].any()
    assert edges[0, 0, 13, [11, 12, 15, 16]].any()
    assert not under(GREY[:2], "canny edges").any()
