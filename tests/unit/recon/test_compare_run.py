"""Who takes part in a comparison, its processes, its clouds, and the trivial fall."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from physgym.errors import DataError
from recon.compare import METHODS, CompareConfig, Contestant, compare, process, run
from recon.compare.cloud_scores import baseline_surfaces, cloud_scores, squared_cd
from recon.compare.contestants import (
    check_contestants,
    contestants_of,
    own_fields,
    read_settings,
    train_stop_of,
)
from recon.compare.falling import Fall
from recon.compare.process import run_worker
from recon.compare.worker import WorkerJob
from recon.identify.progress import Progress
from recon.perception.result import Perception
from recon.perception.table import Plane
from recon.tracks import Tracks

FRAMES, DT_S = 20, 1 / 60


def cube(height_m: float = 0.06) -> np.ndarray:
    """A lattice of 10 cm, its lower side that high."""
    axis = np.linspace(-0.05, 0.05, 6)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return points + np.array([0, 0, 0.05 + height_m])


def fallen(height_m: float = 0.06, speed_m_s: float = 0.0) -> np.ndarray:
    """The cube falls from there and stays where it lands, (T, N, 3)."""
    time = DT_S * np.arange(FRAMES)
    drop = np.minimum(height_m, speed_m_s * time + 0.5 * 9.81 * time**2)
    return cube(height_m)[None] - drop[:, None, None] * np.array([0, 0, 1.0])


def perceived(
    position: np.ndarray | None = None, *, kind: str = "volume", cloud_share: float = 1.0
) -> Perception:
    position = fallen() if position is None else position
    count = position.shape[1]
    tracks = Tracks(
        time_s=DT_S * np.arange(len(position)),
        position=position.astype(np.float32),
        visible=np.ones(position.shape[:2], bool),
        driven_index=[],
        name="cube",
        rest_position=position[0].astype(np.float32),
        source_sha256="ab" * 32,
    )
    clouds = tuple(p[: round(cloud_share * count)].astype(np.float32) for p in position)
    table = Plane(np.array([0.0, 0.0, 1.0]), 0.0)
    return Perception(tracks, count, count, kind, clouds, table=table)  # type: ignore[arg-type]


# -- who takes part ------------------------------------------------------------------------------


def test_methods_are_those_of_reconstruct() -> None:
    assert set(METHODS) >= {"phystwin", "spring-gaus", "mosa"}
    assert [one.name for one in contestants_of(" mosa, phystwin ")] == ["mosa", "phystwin"]
    for method in METHODS:
        assert "seed" in own_fields(method)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("phystwn", "to do:    phystwin"),
        ("spring_gaus,mosa", "to do:    spring-gaus"),
        ("mosa,mosa", "comes twice"),
        (" , ", "no method"),
        ("mosa:isotropic", "there is no method 'mosa:isotropic'"),
    ],
)
def test_wrong_methods_are_refused_with_a_word_of_help(methods: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        contestants_of(methods)


def test_options_are_of_the_reconstruction_or_of_the_method_itself() -> None:
    one = Contestant("a", "mosa", {"budget": "full", "particles": 300, "stages": ["velocity"]})
    assert one.parted() == ({"budget": "full"}, {"particles": 300, "stages": ("velocity",)})
    assert Contestant("b", "spring-gaus", {"per_anchor": False}).parted()[1] == {
        "per_anchor": False
    }
    with pytest.raises(DataError, match=r"has no option 'particle'(.|\n)*particles"):
        check_contestants([Contestant("a", "mosa", {"particle": 300})])
    with pytest.raises(DataError, match="phystwin has no option 'particles'"):
        contestants_of("phystwin", {"phystwin": {"particles": 300}})
    with pytest.raises(DataError, match="settings of 'mosa'"):
        contestants_of("phystwin", {"mosa": {}})
    for taken in ("frozen", "../x", ""):
        with pytest.raises(DataError, match="named"):
            check_contestants([Contestant(taken, "mosa")])


def test_settings_come_from_a_file_of_options_by_method(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text('{"mosa": {"adapter": false}}')
    assert contestants_of("mosa", read_settings(file))[0].options == {"adapter": False}
    for wrong in ("[1]", '{"mosa": 3}', "{"):
        file.write_text(wrong)
        with pytest.raises(DataError, match="--settings"):
            read_settings(file)


@pytest.mark.parametrize(
    ("train", "stop"),
    [("20", 20), ("0.7", 21), ("auto", 21), ("all", 30), ("1", 30), ("0.05", 3), ("30", 30)],
)
def test_frames_are_counted_or_shared_out_as_reconstruct_does(train: str, stop: int) -> None:
    assert train_stop_of(train, 30) == stop
    # What a method makes of the share that it is told: the same number of frames.
    assert max(3, round(stop / 30 * 30)) == stop


@pytest.mark.parametrize("train", ["31", "2", "0.01", "-3", "most", "1.5"])
def test_impossible_numbers_of_frames_are_refused(train: str) -> None:
    with pytest.raises(DataError, match="--train"):
        train_stop_of(train, 30)


# -- clouds --------------------------------------------------------------------------------------


def test_squared_chamfer_of_one_point_and_two() -> None:
    # There: 3 mm; back: 3 mm and 5 mm. 9 + (9 + 25) / 2 square millimetres.
    two = np.array([[0.003, 0, 0], [0, 0.005, 0]])
    assert squared_cd(np.zeros((1, 3)), two) == pytest.approx(26e-6)
    assert squared_cd(two, two) == 0.0


def test_a_shifted_cloud_is_as_far_as_it_was_shifted() -> None:
    seen = perceived()
    shift = np.array([0.0, 0.004, 0.003])
    table = cloud_scores(seen, fallen() + shift, train_stop=12, points=2000)
    # All points are matched: no matching is better than the mean shift, and the shift reaches it.
    # float32 clouds of 0.1 m: 1e-8 m.
    assert table["future"]["emd_m"] == pytest.approx(0.005, abs=1e-7)
    assert table["train"]["cd2_m2"] == pytest.approx(2 * 25e-6, rel=1e-4)
    same = cloud_scores(seen, fallen(), train_stop=12, points=2000)
    assert same["future"] == {
        "cd2_m2": pytest.approx(0, abs=1e-12),
        "emd_m": pytest.approx(0, abs=1e-7),
    }
    assert cloud_scores(seen, fallen(), train_stop=20).keys() == {"train"}


def test_baselines_of_clouds_stay_where_nothing_carries() -> None:
    seen = perceived()
    made = baseline_surfaces(seen)
    np.testing.assert_array_equal(made["frozen"], np.repeat(made["frozen"][:1], FRAMES, axis=0))
    np.testing.assert_allclose(made["rigid"], made["frozen"], atol=1e-6)


# -- the fall ------------------------------------------------------------------------------------


def test_a_rigid_fall_is_a_parabola_until_it_lands() -> None:
    fall = Fall.of(perceived(fallen(0.06, speed_m_s=0.3)))
    assert fall is not None
    points = np.array([[0.01, 0.02, 0.1], [0.0, 0.0, 0.16]])
    made = fall.carry(points)
    time = DT_S * np.arange(FRAMES)
    drop = np.minimum(0.06, 0.3 * time + 0.5 * 9.81 * time**2)
    # It stays in the frame in which it would be below the table: exactly on it. The velocity is
    # fitted to float32 tracks.
    np.testing.assert_allclose(made, points - drop[:, None, None] * [0, 0, 1], atol=2e-4)
    assert made.shape == (FRAMES, 2, 3)


def test_what_stands_or_is_no_volume_does_not_fall() -> None:
    still = np.repeat(cube(0.0)[None], FRAMES, axis=0)
    assert Fall.of(perceived(still)) is None
    assert Fall.of(perceived(kind="sheet")) is None


# -- processes -----------------------------------------------------------------------------------


class Heard(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator:
        self.told.append(f"{name} of {total}")
        yield lambda step, value: self.told.append(f"{step}: {value}")
        self.told.append("end")

    def say(self, text: str) -> None:
        self.told.append(text)


def job_of(place: Path, name: str = "mosa") -> WorkerJob:
    return WorkerJob("ep", str(place), "seen", name, name, {}, {}, None, 12, FRAMES, 100, 0)


def acts(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the process do this in place of its work; `job` and `place` are there."""
    head = """
        import json, os, signal, sys, time, pathlib
        job = json.loads(pathlib.Path(sys.argv[1]).read_text())
        place = pathlib.Path(job["place"])
        def done(**more):
            row = {k: job[k] for k in ("name", "method", "options")} | {"status": "done"} | more
            (place / "result.json").write_text(json.dumps(row))
    """
    monkeypatch.setattr(process, "_WORKER", ("-c", textwrap.dedent(head) + textwrap.dedent(code)))


def test_a_process_is_heard_and_its_result_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts(
        monkeypatch,
        """
        print(json.dumps({"stage": "search", "total": 3}))
        print("a library that prints")
        print(json.dumps({"step": 2, "value": 0.5}))
        print(json.dumps({"end": "search"}))
        print(json.dumps({"say": "found"}))
        done(parts={})
        """,
    )
    heard = Heard()
    row = run_worker(job_of(tmp_path / "mosa"), heard)
    assert row["status"] == "done"
    assert heard.told == ["mosa:", "mosa: search of 3", "2: 0.5", "end", "  found"]


def test_a_crash_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts(monkeypatch, "sys.exit('no such kernel')")
    row = run_worker(job_of(tmp_path / "mosa"), Heard())
    assert row["status"] == "failed"
    assert row["error"]["what"] == "its process ended with code 1: no such kernel"
    acts(monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)")
    row = run_worker(job_of(tmp_path / "mosa"), Heard())
    assert "SIGKILL" in row["error"]["what"]
    assert "memory" in row["error"]["fix"]


def test_ctrl_c_ends_the_process_and_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts(
        monkeypatch,
        """
        (place / "pid").write_text(str(os.getpid()))
        print(json.dumps({"say": "begun"}), flush=True)
        time.sleep(60)
        """,
    )

    class Interrupting(Heard):
        def say(self, text: str) -> None:
            if text == "  begun":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(job_of(tmp_path / "mosa"), Interrupting())
    pid = int((tmp_path / "mosa" / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_memory_is_that_of_the_process_alone() -> None:
    # A parent of 300 MB starts a child that has 100 MB of its own: Linux hands the parent's
    # ru_maxrss down, which must not be taken for the child's.
    child = (
        "import numpy as np; from recon.compare.worker import peak_memory_mb; "
        "a = peak_memory_mb(); b = np.ones(100_000_000, np.uint8); print(a, peak_memory_mb())"
    )
    parent = (
        "import subprocess, sys; b = b'x' * 300_000_000; "
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    told = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=True
    )
    before, after = (float(number) for number in told.stdout.split())
    assert before < 290
    assert 95 < after - before < 115  # pages of the allocator


# -- all together --------------------------------------------------------------------------------

PARTS = {
    part: {
        "start": start,
        "stop": stop,
        "twin": {"track_m": 0.004},
        "frozen": {"track_m": 0.03},
        "rigid": {"track_m": 0.02},
    }
    for part, start, stop in (("train", 1, 14), ("future", 14, 20))
}
DONE = (
    f"done(parts={PARTS!r}, seconds={{'learn': 1.0}}, peak_memory_mb=5.0, resumed=False, "
    "twin={'gaussians': 0}, lpips='', warnings=[])"
)


@pytest.fixture
def episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording that was perceived as the falling cube, held so that nothing flies alone."""
    bag = tmp_path / "ep"
    bag.mkdir()
    (bag / "metadata.yaml").touch()
    seen = perceived(kind="sheet")
    monkeypatch.setattr(run, "_perceived", lambda source, config, progress: (seen, 1.5))
    return bag


def test_one_that_fails_is_a_row_and_resuming_does_the_rest(
    tmp_path: Path, episode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, config = tmp_path / "out", CompareConfig(report=False)
    three = contestants_of("phystwin,mosa,spring-gaus")
    acts(monkeypatch, f"sys.exit('refused') if job['name'] == 'mosa' else {DONE}")
    result = compare(episode, three, place, config)
    assert [row["status"] for row in result["contestants"]] == ["done", "failed", "done"]
    assert result["train_stop"] == 14
    assert result["baselines"]["rigid"]["future"]["track_m"] == 0.02
    assert result["baselines"]["frozen"]["future"]["emd_m"] > 0
    assert json.loads((place / "compare.json").read_text()) == result
    assert "mosa: its process ended with code 1: refused" in (place / "compare.md").read_text()
    with pytest.raises(DataError, match="--resume"):
        compare(episode, three, place, config)
    # Only what is not done runs again.
    acts(monkeypatch, f"{DONE} if job['name'] == 'mosa' else sys.exit('twice')")
    again = compare(episode, three, place, CompareConfig(report=False, resume=True))
    assert [row["status"] for row in again["contestants"]] == ["done", "done", "done"]
    with pytest.raises(DataError, match="train_stop"):
        compare(episode, three, place, CompareConfig(train="15", report=False, resume=True))


def test_other_options_are_another_job(
    tmp_path: Path, episode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, config = tmp_path / "out", CompareConfig(report=False, resume=True)
    acts(monkeypatch, f"(place / 'old').touch(); {DONE}")
    compare(episode, [Contestant("m", "mosa")], place, config)
    acts(monkeypatch, DONE)
    compare(episode, [Contestant("m", "mosa")], place, config)
    assert (place / "m" / "old").is_file()
    compare(episode, [Contestant("m", "mosa", {"particles": 300})], place, config)
    assert not (place / "m" / "old").exists()


def test_ctrl_c_keeps_what_is_done_and_leaves_the_rest(
    tmp_path: Path, episode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts(monkeypatch, DONE)

    class Interrupting(Progress):
        def say(self, text: str) -> None:
            if text == "mosa:":
                raise KeyboardInterrupt

    three = contestants_of("phystwin,mosa,spring-gaus")
    result = compare(
        episode, three, tmp_path / "out", CompareConfig(report=False), progress=Interrupting()
    )
    assert [row["status"] for row in result["contestants"]] == ["done", "stopped", "waiting"]
    assert result["stopped"]
    table = (tmp_path / "out" / "compare.md").read_text()
    assert "mosa: stopped by Ctrl-C" in table
    assert "spring-gaus: not begun" in table


def test_wrong_sources_and_places_are_refused(tmp_path: Path) -> None:
    one = contestants_of("mosa")
    with pytest.raises(DataError, match="no such file"):
        compare(tmp_path / "gone", one, tmp_path / "out")
    (tmp_path / "tracks.npz").touch()
    with pytest.raises(DataError, match="no recording of cameras"):
        compare(tmp_path / "tracks.npz", one, tmp_path / "out")
    with pytest.raises(DataError, match="a file"):
        compare(tmp_path / "tracks.npz", one, tmp_path / "tracks.npz")
    with pytest.raises(DataError, match="--emd-points"):
        CompareConfig(emd_points=3000)


def test_a_process_ends_with_the_comparison_however_that_ended(tmp_path: Path) -> None:
    # Its job never comes: it waits for it, and hears that nobody is left to write it.
    fifo = tmp_path / "job.json"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "recon.compare", str(fifo)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(2.0)
        child.stdin.close()
        assert child.wait(30.0) == 1
