"""SSIM against its formula pixel by pixel, and its gradient against differences."""

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from recon.splats.image_loss import SeenImages


def pair(height: int = 14, width: int = 17, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.rand(count, height, width, 3, generator=draw) for _ in range(2))
    return a, 0.7 * a + 0.3 * b


def slow_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, eq. 13, window by window in float64; zeros outside the image."""
    at = np.arange(11) - 5
    line = np.exp(-(at**2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    made = np.empty(a.shape)
    height, width = a.shape[1:3]
    for index in np.ndindex(*a.shape):
        view, row, column, channel = index
        x, y = (np.zeros((11, 11)) for _ in range(2))
        for i in range(11):
            for j in range(11):
                r, c = row + i - 5, column + j - 5
                if 0 <= r < height and 0 <= c < width:
                    x[i, j], y[i, j] = a[view, r, c, channel], b[view, r, c, channel]
        mx, my = (weight * x).sum(), (weight * y).sum()
        xx, yy = (weight * x * x).sum() - mx**2, (weight * y * y).sum() - my**2
        xy = (weight * x * y).sum() - mx * my
        made[index] = (2 * mx * my + 1e-4) * (2 * xy + 9e-4)
        made[index] /= (mx**2 + my**2 + 1e-4) * (xx + yy + 9e-4)
    return made


def test_ssim_is_its_formula() -> None:
    a, b = pair(count=1)
    found = SeenImages(b).ssim_map(a)
    # float32 sums of squares of numbers up to 1: variances good to 1e-6, against 9e-4 in C2.
    assert np.abs(found.numpy() - slow_ssim(a.numpy(), b.numpy())).max() < 1e-3 / 2
    # the mean averages that
    assert float(SeenImages(b).ssim(a)) == pytest.approx(
        slow_ssim(a.numpy(), b.numpy()).mean(), abs=2e-5
    )


def test_an_image_is_like_itself_alone() -> None:
    a, b = pair()
    assert float(SeenImages(a).ssim(a)) == pytest.approx(1.0, abs=1e-5)
    assert float(SeenImages(a).loss(a)) == pytest.approx(0.0, abs=1e-5)
    assert float(SeenImages(a).ssim(b)) < 0.98


def test_gradient_of_the_loss_is_that_of_differences() -> None:
    a, b = (image.double() for image in pair(12, 13, 1))
    seen = SeenImages(b)
    a.requires_grad_()
    # OpenCV's filter is float64 for float64 planes: central differences of 1e-6 are good to 1e-8.
    (slope,) = torch.autograd.grad(seen.loss(a, dssim=0.4), a)
    draw = torch.Generator().manual_seed(1)
    for _ in range(5):
        step = 1e-6 * torch.randn(a.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            change = seen.loss(a + step, dssim=0.4) - seen.loss(a - step, dssim=0.4)
        assert float(change) == pytest.approx(2 * float((slope * step).sum()), rel=1e-4)


def test_some_of_the_images_are_compared_as_all() -> None:
    a, b = pair(count=3)
    seen = SeenImages(b)
    assert torch.equal(seen[[2, 0]].ssim_map(a[[2, 0]]), seen.ssim_map(a)[[2, 0]])


def test_the_mix_is_weighted() -> None:
    a, b = pair()
    seen = SeenImages(b)
    plain = float((a - b).abs().mean())
    assert float(seen.loss(a, dssim=0.0)) == pytest.approx(plain)
    mixed = 0.8 * plain + 0.2 * (1 - float(seen.ssim(a)))
    assert float(seen.loss(a, dssim=0.2)) == pytest.approx(mixed, rel=1e-5)


def test_wrong_images_and_weights_are_refused() -> None:
    a, b = pair()
    with pytest.raises(DataError, match="shapes"):
        SeenImages(b).ssim(a[:, 1:])
    with pytest.raises(DataError, match="dssim"):
        SeenImages(b).loss(a, dssim=1.5)
