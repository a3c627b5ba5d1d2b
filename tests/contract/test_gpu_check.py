"""The script for GPU machines, as far as a machine without one can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from physgym.probes import cuda_devices

REPOSITORY = Path(__file__).resolve().parents[2]
BENCHMARKS = REPOSITORY / "tests" / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch):
    """The script as a module, imported as it imports itself: from its own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    return gpu_check


@pytest.mark.skipif(bool(cuda_devices()), reason="there is a CUDA device here")
def test_without_gpu_nothing_is_run(tmp_path: Path) -> None:
    """Code 3 and a sentence; no report that could be taken for one."""
    file = tmp_path / "gpu_check.json"
    done = subprocess.run(
        ["bash", str(BENCHMARKS / "gpu_check.sh"), str(file)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "no CUDA device" in done.stderr
    assert not file.exists()


def test_starts_with_the_standard_library_alone(tmp_path: Path) -> None:
    """On a bare machine the script must get far enough to say what is missing (-S: no packages)."""
    program = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import gpu_check\nfrom pathlib import Path\n"
        f"sys.exit(gpu_check.check(Path({str(tmp_path / 'x.json')!r}), Path('no-such-folder')))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "warp" in done.stderr
    assert "make wheels" in done.stderr


def test_carried_packages_are_pinned(gpu_check) -> None:
    """One version of each, for the bare machine's Python."""
    pins = gpu_check.pins(gpu_check.CARRIED, REPOSITORY / "constraints.txt")
    assert len(pins) == len(gpu_check.CARRIED)
    assert all("==" in pin for pin in pins)


def test_cut_wheels_are_joined_again(gpu_check, tmp_path: Path) -> None:
    """Parts for machines with a limit on one transfer give the same bytes back."""
    content = bytes(range(256)) * 5
    wheel = tmp_path / "big-1.0-py3-none-any.whl"
    wheel.write_bytes(content)
    gpu_check._cut(wheel, 100)
    assert not wheel.exists()
    # 1280 bytes in parts of 100: thirteen, so that sorting "part2" before "part10" would show.
    assert len(list(tmp_path.iterdir())) == 13
    gpu_check._join(tmp_path)
    assert wheel.read_bytes() == content


def test_report_of_tests_is_read_right(gpu_check, tmp_path: Path) -> None:
    """Counts and messages come from a real run of pytest."""
    (tmp_path / "test_four.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='no')\ndef test_left_out(): pass\n"
        "@pytest.fixture\ndef broken(): raise RuntimeError('broken fixture')\n"
        "def test_error(broken): pass\n"
    )
    file = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--junitxml={file}"]
    subprocess.run([*command, str(tmp_path / "test_four.py")], cwd=tmp_path, capture_output=True)
    report = gpu_check.read_junit(file)
    assert (report["passed"], report["failed"], report["skipped"]) == (1, 2, 1)
    assert any("1 == 2" in message for message in report["failures"].values())


def test_whole_means_every_benchmark(gpu_check) -> None:
    """One failure, or nothing measured at all, is not a pass."""
    assert gpu_check.figures_are_whole({"benchmarks": {"a": {"figures": {"x": 1}}}})
    assert not gpu_check.figures_are_whole({"benchmarks": {}})
    mixed = {"benchmarks": {"a": {"figures": {}}, "b": {"error": "exit code 1"}}}
    assert not gpu_check.figures_are_whole(mixed)


HEAD = """import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("--json")
"""
TAIL = """
if __name__ == "__main__":
    flags = parser.parse_args()
    json.dump(vars(flags), open(flags.json, "w"))
"""
SCRIPTS = {
    "good": HEAD + 'parser.add_argument("--device")' + TAIL,
    "hasty": HEAD + "parser.add_argument('--quick', action='store_true')" + TAIL,
    "bad": HEAD + "if __name__ == '__main__':\n    raise SystemExit('no data here')",
    "silent": HEAD + "if __name__ == '__main__':\n    pass",
    "part_of_another": "raise SystemExit('nobody runs me')",
}


def run_benchmarks(folder: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    file = folder / "out" / "bench.json"
    command = [sys.executable, str(folder / "tests" / "benchmarks"), "--json", str(file), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, json.loads(file.read_text())


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """A tree of its own with the real runner and made-up benchmarks."""
    folder = tmp_path / "tests" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("__main__.py", "_machine.py"):
        (folder / name).write_text((BENCHMARKS / name).read_text())
    for name, source in SCRIPTS.items():
        (folder / f"{name}.py").write_text(source)
    return tmp_path


def test_benchmarks_are_collected(benchmarks: Path) -> None:
    """Good figures and last words land in one JSON; the exit code says that a script failed."""
    code, report = run_benchmarks(benchmarks, "--device", "cpu", "--quick")
    assert code == 1
    results = report["benchmarks"]
    assert set(results) == {"good", "hasty", "bad", "silent"}
    assert results["good"]["figures"]["device"] == "cpu"
    assert results["hasty"]["figures"]["quick"] is True
    assert "no data here" in results["bad"]["error"]
    assert "no figures" in results["silent"]["error"]
    assert report["machine"]["threads"] >= 1


def test_gpu_run_leaves_cpu_benchmarks_out(benchmarks: Path) -> None:
    """A figure of the CPU must not stand in a report about a GPU; all that ran gave figures."""
    code, report = run_benchmarks(benchmarks, "--device", "cuda")
    assert code == 0
    assert set(report["benchmarks"]) == {"good"}


def test_real_benchmarks_are_found() -> None:
    """Each benchmark of the repository declares --json where the runner can see it."""
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS), "--only", "no-such-benchmark"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    for name in scripts - {"__main__", "gpu_check"}:
        assert f"{name}" in done.stderr
