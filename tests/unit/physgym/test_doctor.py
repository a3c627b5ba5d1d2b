"""The doctor: what it reports, and that no patient can kill it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from physgym import doctor
from physgym.doctor import Doctor, Finding, Probe, collect_probes, examine
from physgym.errors import PhysGymError
from physgym.probes import PROBES, cuda_devices

PLUGIN = """
import os, signal, time
from physgym.doctor import Probe
from physgym.errors import DeviceError


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def hang():
    time.sleep(600)


def absent():
    import a_package_that_nobody_has


def unplugged():
    raise DeviceError("no arm on the bus")


def noisy():
    print("a library talks")
    return "well\\nand more"


def bad():
    raise ValueError("three is not two")


def leave():
    os._exit(9)


crash, hang, absent, unplugged, noisy, bad, leave = (
    Probe(f"test-{f.__name__}", f, "everything", "buy another", core=True)
    for f in (crash, hang, absent, unplugged, noisy, bad, leave)
)
"""
NAMES = ("crash", "hang", "absent", "unplugged", "noisy", "bad", "leave")


@pytest.fixture
def patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Probe]:
    """Probes of a distribution made for the test, found in other processes too."""
    (tmp_path / "patients_of_a_test.py").write_text(PLUGIN)
    info = tmp_path / "patients_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: patients-of-a-test\nVersion: 1\n")
    entries = "".join(f"{name} = patients_of_a_test:{name}\n" for name in NAMES)
    entries += "test-unloadable = patients_of_a_test:nobody\n"
    (info / "entry_points.txt").write_text(f"[physgym.probes]\n{entries}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {probe.name.removeprefix("test-"): probe for probe in collect_probes()}
    return {name: found[name] for name in (*NAMES, "unloadable")}


def one(probe: Probe, timeout_s: float = 90.0) -> Finding:
    return examine([probe], timeout_s=timeout_s)[0]


@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [
        ("crash", "broken", "SIGSEGV"),
        ("leave", "broken", "code 9"),
        ("absent", "missing", "a_package_that_nobody_has"),
        ("unplugged", "missing", "no arm on the bus"),
        ("bad", "broken", "ValueError: three is not two"),
    ],
)
def test_patient_that_fails_is_a_finding(
    patients: dict[str, Probe], name: str, status: str, detail: str
) -> None:
    """A crash, an exit, an absence and an exception are told apart, with advice."""
    finding = one(patients[name])
    assert finding.status == status
    assert detail in finding.detail
    assert finding.switches_off == "everything"
    assert finding.fix == "buy another"


def test_probe_that_does_not_load_is_a_finding(patients: dict[str, Probe]) -> None:
    """A package that registers nonsense costs its own row, not the others'."""
    finding = one(patients["unloadable"])
    assert finding.status == "broken"
    assert "patients_of_a_test:nobody" in finding.detail


def test_patient_that_hangs_is_left(patients: dict[str, Probe]) -> None:
    """A probe that never answers costs its time and no more."""
    finding = one(patients["hang"], timeout_s=1.0)
    assert finding.status == "broken"
    assert "1 s" in finding.detail


def test_patient_that_talks_is_heard_right(patients: dict[str, Probe]) -> None:
    """What a library prints is not the finding; a finding is one line."""
    finding = one(patients["noisy"])
    assert (finding.status, finding.detail) == ("ok", "well")
    assert finding.switches_off == ""
    assert finding.fix == ""


def test_broken_core_is_code_1(
    patients: dict[str, Probe],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script can ask whether the core works; the table says what to mend."""
    monkeypatch.setattr(doctor, "collect_probes", lambda: [patients["bad"]])
    assert Doctor().run() == 1
    said = capsys.readouterr().out
    assert "buy another" in said
    assert "does not work" in said


def test_json_of_this_machine() -> None:
    """Here, where the tests run, the core works; stdout is one JSON object and nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "physgym.cli", "doctor", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert report["ok"] is True
    probes = report["probes"]
    assert {probe.name for probe in PROBES} | {"librealsense"} <= set(probes)
    assert probes["cuda"]["status"] == ("ok" if cuda_devices() else "missing")
    for row in probes.values():
        assert row["status"] in ("ok", "missing", "broken")
        assert row["detail"]
        # Advice stands exactly where something is not well.
        assert bool(row["fix"]) == bool(row["switches_off"]) == (row["status"] != "ok")


def test_probe_names_are_unique() -> None:
    """Names are the keys of the JSON."""
    names = [probe.name for probe in collect_probes()]
    assert len(set(names)) == len(names)


def test_timeout_is_checked() -> None:
    """A doctor without patience is refused."""
    with pytest.raises(PhysGymError, match="timeout_s"):
        Doctor(timeout_s=0)


@pytest.mark.gpu
def test_warp_runs_on_the_gpu() -> None:
    """With a CUDA device the warp probe has compiled and run a kernel there."""
    finding = one(next(probe for probe in PROBES if probe.name == "warp"))
    assert finding.status == "ok", finding.detail
    assert "cuda:0" in finding.detail


@pytest.mark.gpu
def test_auto_takes_the_gpu() -> None:
    """With a CUDA device "auto" is that device."""
    from physgym.sim.device import resolve_device

    assert resolve_device("auto") == "cuda:0"
