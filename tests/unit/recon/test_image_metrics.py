"""PSNR, SSIM and scores of windows against whole images computed plainly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from recon.image_metrics import IMAGE_MEASURES, Window, image_scores, psnr, ssim_map
from recon.splats.perceptual import LPIPS_VARIABLE, load_lpips

H, W = 40, 50


def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Drawn and seen images of an object before black, alpha and mask."""
    draw = np.random.default_rng(0)
    mask, alpha = np.zeros((H, W), bool), np.zeros((H, W))
    mask[12:25, 20:34] = True
    alpha[14:27, 22:36] = 0.9
    seen = draw.uniform(0.1, 1.0, (H, W, 3)) * mask[..., None]
    drawn = draw.uniform(0.1, 1.0, (H, W, 3)) * alpha[..., None]
    return drawn, alpha, seen, mask


def slow_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wang et al. 2004 with scipy's correlation, float64."""
    from scipy.ndimage import correlate

    line = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    weight = np.outer(line, line) / line.sum() ** 2

    def blur(image: np.ndarray) -> np.ndarray:
        planes = [correlate(image[..., k], weight, mode="constant") for k in range(3)]
        return np.stack(planes, axis=-1)

    ma, mb = blur(a), blur(b)
    top = (2 * ma * mb + 1e-4) * (2 * (blur(a * b) - ma * mb) + 9e-4)
    return top / ((ma**2 + mb**2 + 1e-4) * (blur(a * a) - ma**2 + blur(b * b) - mb**2 + 9e-4))


def cut(image: np.ndarray, margin: int = 5) -> np.ndarray:
    return image[12 - margin : 27 + margin, 20 - margin : 36 + margin]


def window(seen: np.ndarray, mask: np.ndarray, ignored: np.ndarray | None = None) -> Window:
    hidden = np.zeros((H, W), bool) if ignored is None else ignored
    return Window(cut(seen), cut(mask), cut(hidden), 7, 15, (H, W))


def test_psnr_is_its_formula() -> None:
    a, b = np.zeros((4, 5, 3)), np.full((4, 5, 3), 0.1)
    assert psnr(a, b) == pytest.approx(20.0)
    assert psnr(a, b, beyond=180) == pytest.approx(30.0)
    assert psnr(a, a) == 100.0


def test_ssim_is_its_formula() -> None:
    drawn, _, seen, _ = pair()
    # float32 variances, good to 1e-6, against 9e-4
    assert np.abs(ssim_map(drawn, seen) - slow_ssim(drawn, seen)).max() < 5e-4
    assert ssim_map(seen, seen).min() > 1 - 1e-4


def test_a_window_has_the_scores_of_the_whole_image() -> None:
    drawn, alpha, seen, mask = pair()
    found = image_scores(cut(drawn), cut(alpha), window(seen, mask))
    assert set(found) == set(IMAGE_MEASURES)
    assert found["psnr_db"] == pytest.approx(-10 * np.log10(np.mean((drawn - seen) ** 2)))
    assert found["ssim"] == pytest.approx(slow_ssim(drawn, seen).mean(), abs=2e-5)
    both, either = mask & (alpha > 0.5), mask | (alpha > 0.5)
    assert found["iou"] == pytest.approx(both.sum() / either.sum())
    box = (slice(12, 25), slice(20, 34))
    error = np.mean((drawn[box] - seen[box]) ** 2)
    assert found["psnr_crop_db"] == pytest.approx(-10 * np.log10(error))
    assert found["ssim_crop"] == pytest.approx(slow_ssim(drawn, seen)[box].mean(), abs=5e-5)
    assert np.isnan(found["lpips"])


def test_what_hides_the_object_counts_in_neither_image() -> None:
    drawn, alpha, seen, mask = pair()
    ignored = np.zeros((H, W), bool)
    ignored[10:30, 25:50] = True
    found = image_scores(cut(drawn), cut(alpha), window(seen, mask, ignored))
    error = np.mean(((drawn - seen) * ~ignored[..., None]) ** 2)
    assert found["psnr_db"] == pytest.approx(-10 * np.log10(error))
    left = ~ignored
    assert found["iou"] == pytest.approx(
        (mask & (alpha > 0.5) & left).sum() / ((mask | (alpha > 0.5)) & left).sum()
    )


def test_images_that_do_not_fit_are_refused() -> None:
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 5))):
        with pytest.raises(DataError, match="psnr"):
            psnr(wrong, np.zeros((4, 5, 3)))
        with pytest.raises(DataError, match="ssim_map"):
            ssim_map(wrong, np.zeros((4, 5, 3)))
    with pytest.raises(DataError, match="psnr"):
        psnr(np.zeros((0, 3)), np.zeros((0, 3)))


class _MeanDistance(torch.nn.Module):
    """Stands for a network: mean distance, of images in -1 to 1."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean().reshape(1, 1, 1, 1)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_lpips_comes_from_a_file_that_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(LPIPS_VARIABLE, raising=False)
    assert load_lpips() is None
    file = tmp_path / "lpips.pt"
    torch.jit.script(_MeanDistance()).save(str(file))
    monkeypatch.setenv(LPIPS_VARIABLE, str(file))
    drawn, alpha, seen, mask = pair()
    found = image_scores(cut(drawn), cut(alpha), window(seen, mask), lpips=load_lpips())
    # of the whole images, and their range is twice as wide
    assert found["lpips"] == pytest.approx(2 * np.abs(drawn - seen).mean(), rel=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lpips_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="LPIPS weights"):
        load_lpips(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("no module")
    with pytest.raises(DataError, match="LPIPS weights"):
        load_lpips(tmp_path / "text.pt")
    torch.jit.script(torch.nn.L1Loss(reduction="none")).save(str(tmp_path / "map.pt"))
    lpips = load_lpips(tmp_path / "map.pt")
    assert lpips is not None
    with pytest.raises(DataError, match="one number"):
        lpips(np.zeros((4, 4, 3)), np.zeros((4, 4, 3)))
