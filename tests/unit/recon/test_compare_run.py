"""Who takes part in a comparison, its clouds, and all together."""

import json
from pathlib import Path

import numpy as np
import pytest
from compare_cases import DONE, FELL, FRAMES, acts, fallen, perceived

from physgym.errors import DataError
from recon.compare import METHODS, CompareConfig, Contestant, compare, run
from recon.compare.cloud_scores import baseline_surfaces, cloud_scores, squared_cd
from recon.compare.contestants import (
    check_contestants,
    contestants_of,
    own_fields,
    read_settings,
    train_stop_of,
)
from recon.falling import fall_of
from recon.identify.progress import Progress

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
    made = baseline_surfaces(seen, None)
    np.testing.assert_array_equal(made["frozen"], np.repeat(made["frozen"][:1], FRAMES, axis=0))
    np.testing.assert_allclose(made["rigid"], made["frozen"], atol=1e-6)
    assert set(made) == {"frozen", "rigid"}
    falls = baseline_surfaces(seen, fall_of(Path(), seen, 14))["falling"]
    np.testing.assert_allclose(falls, fallen(), atol=2e-4)  # float32 tracks


# -- all together --------------------------------------------------------------------------------


@pytest.fixture
def episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording that was perceived as a falling sheet: no volume, so that nothing flies alone."""
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


def test_the_fall_is_a_row_where_contestants_were_scored_beside_it(
    tmp_path: Path, episode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = perceived()
    monkeypatch.setattr(run, "_perceived", lambda source, config, progress: (seen, 1.5))
    place, config = tmp_path / "out", CompareConfig(report=False, resume=True)
    acts(monkeypatch, DONE)  # as an older comparison left it
    old = compare(episode, [Contestant("a", "mosa")], place, config)
    assert set(old["baselines"]) == {"frozen", "rigid"}
    acts(monkeypatch, FELL)
    both = [Contestant("a", "mosa"), Contestant("b", "mosa")]
    result = compare(episode, both, place, config)
    assert list(result["baselines"]) == ["frozen", "rigid", "falling"]
    for part in ("train", "future"):
        falling, frozen = (result["baselines"][k][part] for k in ("falling", "frozen"))
        assert falling["track_m"] == 0.01
        assert falling["cd2_m2"] < 1e-7 < frozen["cd2_m2"]  # the cube falls so: tracks are float32
        assert falling["emd_m"] < frozen["emd_m"]
    assert "| future | falling |" in (place / "compare.md").read_text()


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
