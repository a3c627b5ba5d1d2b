"""The camera path on librealsense's own recordings: nothing above the driver is replaced."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from physgym.camera import PinholeCamera
from physgym.errors import DataError, DeviceError
from physgym.frames import T_from_parts

if find_spec("pyrealsense2") is None:
    pytest.skip("pyrealsense2 is not installed", allow_module_level=True)

from recon.capture.realsense import Frame, RealSenseConfig, RealSenseRig
from recon.capture.realsense_reader import Reader
from recon.capture.software_camera import SoftwareCamera, record_software_cameras

WIDTH, HEIGHT, FPS = 160, 120, 30
START_S = 1.7e9
K = np.array([[150.0, 0, 81.0], [0, 150.0, 58.0], [0, 0, 1]])
CONFIG = RealSenseConfig(width=WIDTH, height=HEIGHT, fps=FPS)
CAMERAS = {
    name: PinholeCamera(name, serial, WIDTH, HEIGHT, K, np.eye(4))
    for name, serial in (("left", "810001"), ("right", "810002"))
}


def _rgb(number: int) -> np.ndarray:
    """A picture that says which frame it is, with a pattern that compression could spoil."""
    rgb = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    rgb[:4] = number
    return rgb


def _depth(number: int) -> np.ndarray:
    """Depth that says which frame it is: 0.5 m and number centimetres, and a hole."""
    depth = np.full((HEIGHT, WIDTH), 0.5 + 0.01 * number, np.float32)
    depth[50:60, 20:30] = 0.0
    return depth


def _number(frame: Frame) -> tuple[int, int]:
    """Which frame colour and depth are of."""
    return int(frame.rgb[0, 0, 0]), round((float(frame.depth_m[100, 100]) - 0.5) / 0.01)


def _record(folder: Path, count: int = 20, only: dict[str, int] | None = None) -> list[Path]:
    """Both cameras, `count` frames each (or as many as `only` says), 2 ms apart."""

    def frames() -> Iterator[tuple[str, float, np.ndarray, np.ndarray]]:
        for number in range(count):
            for i, name in enumerate(CAMERAS):
                if number < (only or {}).get(name, count):
                    stamp_s = START_S + number / FPS + 0.002 * i
                    yield name, stamp_s, _rgb(number), _depth(number)

    return list(
        record_software_cameras(folder, CAMERAS.values(), frames(), fps=FPS, paced=True).values()
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return _record(tmp_path_factory.mktemp("two-cameras"))


def _feed(
    path: Path,
    frames: Iterable[tuple[int, np.ndarray | None, np.ndarray]],
    *,
    start_s: float = START_S,
    depth_camera: PinholeCamera | None = None,
) -> None:
    """Record the left camera at its pace; playback is as fast as recording was."""
    with SoftwareCamera(path, CAMERAS["left"], fps=FPS, depth_camera=depth_camera) as software:
        if start_s < START_S:
            software._last_s = start_s - 1.0  # past the check of the first stamp
        for number, rgb, depth in frames:
            software.feed(start_s + number / FPS, rgb, depth, number=number + 1)
            time.sleep(1 / FPS)


def _serials() -> dict[str, str]:
    return {name: camera.serial for name, camera in CAMERAS.items()}


def test_librealsense_does_not_wait_for_the_interpreter(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of 20/30 s arrive in librealsense's queue while Python runs nothing but this test."""
    monkeypatch.setattr(Reader, "start", lambda reader: None)
    with RealSenseRig(_serials(), replace(CONFIG, playing="live"), files=files) as rig:
        for reader in rig._readers.values():
            reader._resume()
        ctypes.PyDLL(None).usleep(600_000)  # unlike CDLL, it keeps the interpreter's lock
        waiting = [reader._frames.size() for reader in rig._readers.values()]
    # 18 where nothing else runs. A thread that waits for the lock brings one or two, after that.
    assert min(waiting) >= 6


def test_frames_come_back_bit_exact_and_paired(files: list[Path]) -> None:
    """Colour as it was fed; depth to 0.5 mm, its 16 bit count being a millimetre; stamps to 1 us.

    Not aligned: librealsense's alignment closes holes by a pixel even between equal cameras.
    """
    with RealSenseRig(_serials(), replace(CONFIG, align=False), files=files) as rig:
        frames = list(rig.frames())
        reports = rig.report()

    assert {name: camera.serial for name, camera in rig.cameras.items()} == _serials()
    assert np.allclose(rig.cameras["left"].K, K, atol=1e-4)  # librealsense keeps float32
    for i, name in enumerate(CAMERAS):
        mine = [frame for frame in frames if frame.camera == name]
        report = reports[name]
        assert len(mine) == report.delivered
        # on a busy machine librealsense drops frames, the first ones above all: all are told
        assert 20 - len(mine) <= report.lost + mine[0].number - 1
        for frame in mine:
            number, number_of_depth = _number(frame)
            assert number == number_of_depth
            assert frame.stamp_s == pytest.approx(START_S + number / FPS + 0.002 * i, abs=1e-6)
            assert np.array_equal(frame.rgb, _rgb(number))
            assert np.abs(frame.depth_m - _depth(number)).max() < 5e-4
            assert frame.depth_m.dtype == np.float32
        assert report.ended == "end of the recording"
        assert report.clock == "global_time"


def test_framesets_pair_the_cameras(files: list[Path]) -> None:
    """2 ms apart, as recorded; sets lack only frames that the reports call lost."""
    with RealSenseRig(_serials(), CONFIG, files=files) as rig:
        sets = list(rig.framesets())
        lost = sum(report.lost for report in rig.report().values())

    both = [s for s in sets if len(s.frames) == 2]
    # a first frame that never came is in no count of lost frames: one per camera
    assert len(both) >= 20 - lost - 2
    for matched in both:
        assert len({_number(frame)[0] for frame in matched.frames.values()}) == 1
        assert matched.skew_s == pytest.approx(0.002, abs=1e-6)


def test_cameras_are_named_in_order_of_serial(files: list[Path]) -> None:
    """Without names: cam0, cam1, whatever the order of the files."""
    with RealSenseRig(config=CONFIG, files=files[::-1]) as rig:
        assert {n: c.serial for n, c in rig.cameras.items()} == {"cam0": "810001", "cam1": "810002"}


def test_slow_reader_loses_nothing_from_a_recording(files: list[Path]) -> None:
    """Room for 3 frames: playback waits, every frame that the driver had arrives."""
    config = replace(CONFIG, queue_frames=3)
    with RealSenseRig({"left": "810001"}, config, files=files) as rig:
        numbers = []
        for frame in rig.frames():
            numbers.append(_number(frame)[0])
            if len(numbers) == 5:
                time.sleep(0.3)
        report = rig.report()["left"]

    assert report.overflowed == 0
    assert numbers == sorted(set(numbers))
    assert len(numbers) == report.delivered


def test_a_camera_cannot_wait_and_losses_are_counted(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Playback's waiting off, as with hardware: what found no room is counted, not hidden."""
    monkeypatch.setattr(Reader, "_wait_for_room", lambda self: False)
    config = replace(CONFIG, queue_frames=4)
    with RealSenseRig({"left": "810001"}, config, files=files) as rig:
        reader = rig._readers["left"]
        reader.join(timeout=10)  # nobody reads meanwhile
        frames = list(rig.frames())
        report = rig.report()["left"]

    assert len(frames) == report.delivered == 4
    assert report.overflowed > 0
    depth = report.depth
    assert report.overflowed + report.delivered <= depth.received
    assert report.lost >= report.overflowed


def test_lost_frames_are_counted_from_numbers(tmp_path: Path) -> None:
    """Frames 5, 6 and 12 never left the camera; its numbers and stamps say so."""
    camera = CAMERAS["left"]
    left = [number for number in range(20) if number not in (5, 6, 12)]
    _feed(tmp_path / "left.db3", ((n, _rgb(n), _depth(n)) for n in left))
    with RealSenseRig(_serials_of(camera), CONFIG, files=[tmp_path / "left.db3"]) as rig:
        numbers = [_number(frame)[0] for frame in rig.frames()]
        report = rig.report()["left"]

    assert report.depth.lost >= 3
    assert report.depth.gaps >= 3
    assert report.lost >= 3
    assert not {5, 6, 12} & set(numbers)


def _serials_of(camera: PinholeCamera) -> dict[str, str]:
    return {camera.name: camera.serial}


def test_lost_colour_costs_its_pair_only(tmp_path: Path) -> None:
    """Colour 8 is missing: depth 8 stays alone and is counted, no frame mixes two instants."""
    camera = CAMERAS["left"]
    frames = ((n, None if n == 8 else _rgb(n), _depth(n)) for n in range(20))
    _feed(tmp_path / "left.db3", frames)
    with RealSenseRig(_serials_of(camera), CONFIG, files=[tmp_path / "left.db3"]) as rig:
        pairs = [_number(frame) for frame in rig.frames()]
        report = rig.report()["left"]

    assert all(color == depth for color, depth in pairs)
    assert 8 not in [color for color, _ in pairs]
    assert report.color.lost >= 1
    assert len(pairs) >= 15


def test_stamps_that_confuse_librealsense_mix_nothing(tmp_path: Path) -> None:
    """From 10 s on the clock, librealsense 2.59 pairs depth with colour of other instants.

    The software camera refuses such stamps; smuggled past it, the reader still pairs by stamp.
    """
    camera = CAMERAS["left"]
    with (
        SoftwareCamera(tmp_path / "refused.db3", camera, fps=FPS) as software,
        pytest.raises(DataError, match="stamp 10"),
    ):
        software.feed(10.0, _rgb(0), _depth(0))
    _feed(tmp_path / "left.db3", ((n, _rgb(n), _depth(n)) for n in range(20)), start_s=10.0)
    with RealSenseRig(_serials_of(camera), CONFIG, files=[tmp_path / "left.db3"]) as rig:
        pairs = [_number(frame) for frame in rig.frames()]
        report = rig.report()["left"]

    assert all(color == depth for color, depth in pairs)
    assert report.mixed_sets + report.lost > 0  # it did mix, or dropped: and the report says so


def test_camera_that_ends_early_leaves_the_other_going(tmp_path: Path) -> None:
    """As after an unplugging: right stops after 8 of 24 frames, left goes on to its end."""
    files = _record(tmp_path, count=24, only={"right": 8})
    with RealSenseRig(_serials(), CONFIG, files=files) as rig:
        sets = list(rig.framesets())
        reports = rig.report()

    assert reports["right"].delivered <= 8
    assert {tuple(sorted(s.frames)) for s in sets} == {("left", "right"), ("left",)}
    last = max(_number(s.frames["left"])[0] for s in sets)
    assert last == 23
    assert reports["right"].ended == reports["left"].ended == "end of the recording"


def test_leaving_early_stops_the_cameras(files: list[Path]) -> None:
    """Ctrl-C or an exception in the middle: threads end, the report says why."""
    with RealSenseRig(_serials(), CONFIG, files=files) as rig:
        next(rig.frames())
    assert {report.ended for report in rig.report().values()} <= {"stopped", "end of the recording"}
    assert not any(reader.is_alive() for reader in rig._readers.values())


def test_depth_is_moved_into_the_colour_image(tmp_path: Path) -> None:
    """A depth camera 4 cm to the left: at 0.5 m, f = 150 px, its pixels lie 12 px further left."""
    camera = CAMERAS["left"]
    T_color_depth = T_from_parts(np.eye(3), [-0.04, 0.0, 0.0])
    beside = replace(camera, T_world_cam=camera.T_world_cam @ T_color_depth)
    depth = np.zeros((HEIGHT, WIDTH), np.float32)
    depth[40:80, 60:100] = 0.5  # a plate that the depth camera sees here ...
    _feed(tmp_path / "left.db3", ((n, _rgb(n), depth) for n in range(10)), depth_camera=beside)

    found = {}
    for align in (True, False):
        config = replace(CONFIG, align=align)
        with RealSenseRig(_serials_of(camera), config, files=[tmp_path / "left.db3"]) as rig:
            found[align] = next(rig.frames()).depth_m
    columns = {align: np.flatnonzero(image.any(axis=0)) for align, image in found.items()}
    assert (columns[False].min(), columns[False].max()) == (60, 99)
    # ... and the colour camera 12 px further left; 1 px: alignment rounds to whole pixels
    assert columns[True].min() == pytest.approx(60 - 12, abs=1)
    assert columns[True].max() == pytest.approx(99 - 12, abs=1)


def test_filters_smooth_and_keep_the_depth(files: list[Path]) -> None:
    """On a plane that moves 1 cm a frame the temporal filter lags; 3 cm bounds it."""
    config = replace(CONFIG, filters=True)
    with RealSenseRig({"left": "810001"}, config, files=files) as rig:
        frames = list(rig.frames())
    assert frames
    for frame in frames:
        number = int(frame.rgb[0, 0, 0])
        assert float(np.median(frame.depth_m)) == pytest.approx(0.5 + 0.01 * number, abs=0.03)


def test_missing_camera_is_named(files: list[Path]) -> None:
    """And what there is instead."""
    rig = RealSenseRig({"top": "999"}, CONFIG, files=files)
    with pytest.raises(DeviceError, match=r"top \(999\)") as caught, rig:
        pass
    assert "810001" in str(caught.value)


def test_resolution_that_it_does_not_have_is_refused(files: list[Path]) -> None:
    """The error says what was asked for."""
    rig = RealSenseRig(_serials(), replace(CONFIG, width=1280, height=720), files=files)
    with pytest.raises(DeviceError, match="1280x720"), rig:
        pass


def test_two_recordings_of_one_camera_are_refused(files: list[Path], tmp_path: Path) -> None:
    """They cannot run at once."""
    again = tmp_path / "again.db3"
    again.write_bytes(files[0].read_bytes())
    with (
        pytest.raises(DeviceError, match="2 recordings are of 1"),
        RealSenseRig(config=CONFIG, files=[files[0], again]),
    ):
        pass


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """A text file, and a .bag with the way to convert it."""
    for name, says in (("x.db3", "record again"), ("x.bag", "convert_bag_to_db3")):
        (tmp_path / name).write_bytes(b"nothing that librealsense wrote")
        with pytest.raises(DeviceError, match=says), RealSenseRig(files=[tmp_path / name]):
            pass


@pytest.mark.parametrize("change", [{"fps": 0}, {"width": -1}, {"exposure_us": 0.0}])
def test_impossible_settings_are_refused(change: dict[str, float]) -> None:
    """Named by field."""
    with pytest.raises(DataError, match=next(iter(change))):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_software_camera_refuses_what_does_not_fit(tmp_path: Path) -> None:
    """Wrong ending, wrong size, stamps that fall."""
    with pytest.raises(DataError, match=r"\.bag"):
        SoftwareCamera(tmp_path / "left.bag", CAMERAS["left"])
    with SoftwareCamera(tmp_path / "left.db3", CAMERAS["left"]) as software:
        with pytest.raises(DataError, match="shape"):
            software.feed(START_S, _rgb(0)[:50], None)
        software.feed(START_S + 1, _rgb(0), _depth(0))
        with pytest.raises(DataError, match="rising"):
            software.feed(START_S, _rgb(1), _depth(1))
