"""What of the plain Warp rasteriser can be known without a GPU: that it compiles for one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import warp as wp

from physgym.errors import DeviceError
from physgym.sim.device import resolve_device
from physgym.splats import warp_blend, warp_lists

_MODULE = sys.modules["physgym.splats.rasterize"]  # the package's attribute is the function


@pytest.mark.parametrize("channels", [4, 36])
def test_kernels_compile_for_cuda_and_add_atomically(tmp_path: Path, channels: int) -> None:
    resolve_device("cpu")  # starts Warp
    if not wp.get_cuda_supported_archs():
        pytest.skip("this build of Warp has no CUDA compiler")
    kernels = warp_blend._kernels(channels)
    modules = [warp_lists._list_tiles.module, kernels.forward.module, kernels.backward.module]
    code = []
    for module in modules:
        files = wp.compile_aot_module(module, arch=80, module_dir=tmp_path, use_ptx=True)
        code.append(files[0].read_text(encoding="utf-8", errors="replace"))
    assert [".entry" in text for text in code] == [True] * 3
    # pixel 2, conic 3, strength 1, and each channel: nothing is added without a lock
    assert code[2].count("atom.global.add.f32") == 6 + channels
    # products and sums stay apart, or two kernels would not see the same bits
    assert "fma.rn" not in code[0]


@pytest.mark.parametrize(
    ("there", "nvcc", "wanted"),
    [
        ([], "/bin/nvcc", "warp"),
        (["gsplat"], None, "warp"),  # it could not compile its kernels
        (["gsplat"], "/bin/nvcc", "gsplat"),
        (["gsplat", "gsplat.csrc"], None, "gsplat"),
    ],
)
def test_auto_takes_the_fastest_engine_that_can_run(
    monkeypatch: pytest.MonkeyPatch, there: list[str], nvcc: str | None, wanted: str
) -> None:
    monkeypatch.setattr(_MODULE, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(_MODULE.shutil, "which", lambda name: nvcc)
    monkeypatch.setattr(_MODULE, "_gsplat_is_ready", _MODULE._gsplat_is_ready.__wrapped__)
    assert _MODULE._engine("auto", torch.device("cuda:0")) == wanted
    assert _MODULE._engine("auto", torch.device("cpu")) == "native"


def test_engines_are_refused_where_they_cannot_run() -> None:
    for device in (torch.device("cpu"), torch.device("cuda:0")):
        for engine in ("warp", "plain"):
            assert _MODULE._engine(engine, device) == engine
    with pytest.raises(DeviceError, match="native"):
        _MODULE._engine("native", torch.device("cuda:0"))
    with pytest.raises(DeviceError, match="gsplat"):
        _MODULE._engine("gsplat", torch.device("cpu"))
