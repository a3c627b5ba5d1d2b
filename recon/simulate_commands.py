"""The command `physgym simulate`: a twin to a prediction."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from physgym.errors import DataError

if TYPE_CHECKING:
    from physgym.twin import Twin
    from recon.start import Start

__all__ = ["Simulate"]


@dataclass(frozen=True)
class Simulate:
    """Predict what an object does: from the start of a recording, or from a pose and a velocity.

    Of an episode (--episode): from its first frame and the recorded motion of grippers or hands.
    OUT holds points (T, N, 3) [m], visible_surface (N,) and time (T,) [s].
    Of tracks (--tracks): from their first frames and their driven points. OUT holds driven_index,
    and name, time and points of the recording; of several name_0, time_0, points_0 and so on.
    Of neither (--duration): the object falls, flies and comes to rest. OUT as of an episode.
    """

    twin: Annotated[Path, tyro.conf.Positional]
    """Twin folder."""
    out: Path
    """Where the prediction goes: an .npz."""
    episode: Path | None = None
    """An episode of the object that the twin was made from, or of another interaction with it."""
    tracks: Path | None = None
    """Recording(s) in tracks: what drives the twin, and what it is compared with."""
    initial_pose: tuple[float, float, float, float, float, float, float] | None = None
    """X Y Z QW QX QY QZ: from the twin's rest pose to where it starts [m, unit quaternion]. When
    not given: where the recording's first frame has it, or the rest pose."""
    initial_velocity: tuple[float, float, float] | None = None
    """VX VY VZ of its centre at the start [m/s]. When neither this nor --initial-spin is given:
    what the first frames of tracks tell; with --duration, or with the episode that the twin was
    made from, as then where it knows (mpm, spring-gaus); else none."""
    initial_spin: tuple[float, float, float] | None = None
    """WX WY WZ about its centre at the start [rad/s]."""
    duration: float | None = None
    """How long, where no recording says it [s]."""
    gravity: tuple[float, float, float] | None = None
    """With --duration: GX GY GZ in place of the twin's own [m/s^2]."""
    ground: float | None = None
    """With --duration: height of a level ground in place of the twin's own [m]."""
    friction: float | None = None
    """With --duration: Coulomb coefficient of the ground in place of the twin's own."""
    fps: float = 30.0
    """With --duration: frames a second."""
    calibration: Path | None = None
    """Of an episode: file with T_world_cam of its cameras, in place of its own."""
    residual: bool = True
    """With what was learned on top of the physics: a residual, or a continuum's stress adapter."""
    deformation: bool = False
    """Of a continuum (mpm) with --tracks or --duration: also write particles (T, P, 3) [m] and
    their deformation gradient, deformation (T, P, 3, 3)."""
    json: bool = False
    """Print a machine-readable summary."""

    def run(self) -> int:
        """Simulate and compare.

        Returns:
            0 when the prediction was written.

        Raises:
            PhysGymError: if the twin or a recording is wrong, or they do not fit each other.
        """
        from physgym.files import check_writable
        from physgym.twin import Twin
        from recon.start import Start

        if self.out.suffix != ".npz" or self.out.is_dir():
            raise DataError(f"{self.out}", where="--out", expected="a file whose name ends in .npz")
        check_writable(self.out, f"--out {self.out}")
        given = [f for f in ("episode", "tracks", "duration") if getattr(self, f) is not None]
        if len(given) != 1:
            raise DataError(
                " and ".join(f"--{flag}" for flag in given) or "nothing that says how long",
                where="simulate",
                expected="one of --episode, --tracks and --duration",
            )
        other = (self.gravity, self.ground, self.friction)
        if self.duration is None and any(value is not None for value in other):
            raise DataError(
                "--gravity, --ground or --friction with a recording",
                where="simulate",
                expected="them with --duration only: a recording has its own",
                fix="leave them out",
            )
        start = Start.of(self.initial_pose, self.initial_velocity, self.initial_spin)
        twin = Twin.load(self.twin)
        if self.deformation and (twin.dynamics != "mpm" or self.episode is not None):
            raise DataError(
                f"--deformation of a twin of {twin.dynamics} dynamics, or of an episode",
                where="simulate",
                expected="a continuum (mpm) with --tracks or --duration",
                fix="leave it out",
            )
        if self.episode is not None:
            return self._of_episode(twin, self.episode, start)
        if self.tracks is not None:
            return self._of_tracks(twin, self.tracks, start)
        return self._alone(twin, start)

    def _of_tracks(self, twin: Twin, path: Path, start: Start) -> int:
        import numpy as np

        from recon.importers import load_recordings
        from recon.metrics import free_dist_mean
        from recon.predict import predict
        from recon.predict_mpm import predict_mpm

        recordings = load_recordings(path)
        arrays: dict[str, Any] = {}
        if twin.dynamics == "mpm":
            made = [predict_mpm(twin, t, start=start, adapted=self.residual) for t in recordings]
            predicted = [points for points, _ in made]
            for i, (_, motion) in enumerate(made if self.deformation else ()):
                suffix = "" if len(made) == 1 else f"_{i}"
                arrays[f"particles{suffix}"] = motion.position
                arrays[f"deformation{suffix}"] = motion.deformation
        elif start.given:
            raise DataError(
                f"--initial-pose, --initial-velocity or --initial-spin of a {twin.dynamics} twin",
                where="simulate --tracks",
                expected="none: it starts as the recording's first two frames say",
                fix="leave them out, or use --duration",
            )
        else:
            predicted = predict(twin, recordings, residual=self.residual)
        rows: list[dict[str, Any]] = []
        for i, (tracks, points) in enumerate(zip(recordings, predicted)):
            suffix = "" if len(recordings) == 1 else f"_{i}"
            # Other dynamics have one set of driven nodes; a continuum takes each recording's own.
            key = f"driven_index{suffix}" if twin.dynamics == "mpm" else "driven_index"
            arrays[key] = np.array(tracks.driven_index)
            arrays[f"name{suffix}"] = np.array(tracks.name)
            arrays[f"time{suffix}"], arrays[f"points{suffix}"] = tracks.time_s, points
            error = free_dist_mean(points, tracks.position, tracks.driven_index)
            rows.append({"name": tracks.name, "free_dist_mean_m": error})
        self._write(arrays)
        if self.json:
            print(json.dumps({"out": str(self.out), "recordings": rows}))
        else:
            for row in rows:
                error_mm = 1e3 * row["free_dist_mean_m"]
                print(f"{row['name']}: mean error of the free points {error_mm:.1f} mm")
            print(f"prediction: {self.out}")
        return 0

    def _of_episode(self, twin: Twin, episode: Path, start: Start) -> int:
        import numpy as np

        from recon.perception.perceive_config import PerceiveConfig
        from recon.predict_episode import predict_episode
        from recon.score_source import known_perception

        config = PerceiveConfig(kind=twin.kind)
        perception = known_perception(episode, config, calibration=self.calibration)
        found = predict_episode(twin, perception, start=start, adapted=self.residual)
        arrays = {
            "points": found.points,
            "visible_surface": found.visible_surface,
            "time": found.time_s,
            "name": np.array(perception.name),
        }
        self._write(arrays)
        about = {"episode": perception.name, "registered": found.registered}
        return self._tell(perception.name, arrays, about)

    def _alone(self, twin: Twin, start: Start) -> int:
        import numpy as np

        from physgym.surroundings import surrounded
        from recon.predict_free import predict_free

        assert self.duration is not None
        twin = surrounded(
            twin, gravity_m_per_s2=self.gravity, ground_m=self.ground, friction=self.friction
        )
        found = predict_free(
            twin, start, duration_s=self.duration, fps=self.fps, adapted=self.residual
        )
        arrays = {
            "points": found.points,
            "visible_surface": found.visible_surface,
            "time": found.time_s,
            "name": np.array(twin.name),
        }
        if self.deformation:
            assert found.deformation is not None
            arrays["deformation"] = found.deformation
            arrays["particles"] = found.points[:, -twin.node_count :]
        self._write(arrays)
        return self._tell(twin.name, arrays, {})

    def _write(self, arrays: dict[str, Any]) -> None:
        import numpy as np

        from physgym.files import write_atomically

        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out, buffer.getvalue())

    def _tell(self, name: str, arrays: dict[str, Any], about: dict[str, Any]) -> int:
        import numpy as np

        points = arrays["points"]
        frames, count = (int(n) for n in points.shape[:2])
        if self.json:
            print(json.dumps({"out": str(self.out), "frames": frames, "points": count, **about}))
            return 0
        moved = float(np.linalg.norm(points[-1] - points[0], axis=1).mean())
        print(
            f"{name}: {frames} frames of {count} points, moved {1e3 * moved:.0f} mm on average by "
            "the last"
        )
        print(f"prediction: {self.out}")
        return 0
