"""Spring-Gaus: a spring network that carries Gaussians, from multi-view video.

Zhong et al., "Reconstruction and Simulation of Elastic Objects with Spring-Mass 3D Gaussians", ECCV
2024. Stages: static Gaussians of the first frame; anchors inside of them; start velocity from the
frames before contact; appearance with the centres as they are; a scan of one stiffness; descent on
the stiffness of every anchor, soft vector, damping and ground through simulation and rendering.
What differs from the authors' code is in ``docs/methods/spring_gaus.md``.
Shapes: T frames, G Gaussians, A anchors.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.run_folder import Checkpoint, RunFolder
from physgym.splats.cloud import GaussianCloud
from physgym.splats.skinning import bind, inverse_distance
from physgym.twin import Twin
from recon.identify.anchor_rollouts import AnchorBody, AnchorRollouts
from recon.identify.anchors import anchor_springs, volume_sample
from recon.identify.clip import above_ground
from recon.identify.progress import Progress
from recon.identify.spring_gaus_config import SpringGausConfig
from recon.identify.spring_gaus_dynamic import Descent, Dynamics, DynamicState
from recon.identify.spring_gaus_scan import scanned_start
from recon.identify.spring_gaus_static import appearance, scanned_cloud, static_cloud, unseen
from recon.identify.spring_gaus_twin import TwinParts, make_twin, rigid_means
from recon.identify.torch_threads import one_torch_thread
from recon.identify.video_loss import LossWeights, VideoLoss
from recon.identify.video_scene import VideoScene
from recon.identify.video_start import Flight, find_flight, polish_velocity
from recon.perception.result import Perception
from recon.splats.video import PosedVideo, smaller
from recon.tracks import PhysGymWarning

__all__ = ["identify_video"]

_ASSUMED_KG = 0.1  # as `episode_fit`: motion tells only ratios to the mass
_FEWEST_TOUCHED = 3  # frames after the first contact that a fit must see
_FEWEST_HELD_OUT = 2
_SCAN_FRAMES = 24
_RESTS_ON = 0.35  # usual distances of neighbours above the ground
_SAVE_STEPS = 5


def identify_video(
    video: PosedVideo,
    scene: Perception | VideoScene,
    config: SpringGausConfig | None = None,
    *,
    name: str = "",
    progress: Progress | None = None,
    run: RunFolder | None = None,
) -> Twin:
    """Make a spring-network twin with Gaussians from a video.

    Ctrl-C ends the search; the twin is then the best found so far and says so in its provenance.

    Args:
        video: frames to learn from, from `recon.splats.video`.
        scene: what was perceived of the episode, or world and clock alone (`VideoScene.plain`).
        config: how.
        name: of the twin; that of the video when empty.
        progress: told about every step.
        run: where checkpoints go; a run that has some is gone on with.

    Returns:
        The twin, without metrics.

    Raises:
        DataError: if the video is too short or shows too little.
        BlowUpError: if no stiffness can be simulated.
    """
    config, progress = config or SpringGausConfig(), progress or Progress()
    given = VideoScene.of(scene, video) if isinstance(scene, Perception) else scene
    if video.camera_count == 1:
        warnings.warn(
            f"{video.name}: one camera sees the object; what it hides of shape and motion is a "
            "guess",
            PhysGymWarning,
            stacklevel=2,
        )
    with one_torch_thread():
        job = _Job(video, given, config, progress, run)
        job.go()
        return make_twin(job.parts(), name or video.name)


class _Job:
    """All stages, resumable."""

    def __init__(
        self,
        video: PosedVideo,
        scene: VideoScene,
        config: SpringGausConfig,
        progress: Progress,
        run: RunFolder | None,
    ) -> None:
        self.scene, self.config, self.progress, self.run = scene, config, progress, run
        self.video, self.motion = video, video.smaller(config.motion_pixels)
        self.done, self.stopped = 0, False
        self.cloud: GaussianCloud | None = None
        self.anchors = np.zeros((0, 3))
        self.velocity: np.ndarray | None = None
        self.state: DynamicState | None = None
        self.scanned: dict[str, float] = {}
        checkpoint = run.latest_checkpoint() if run is not None else None
        if checkpoint is not None:
            self._restore(checkpoint)

    def go(self) -> None:
        """All stages; Ctrl-C keeps the best so far, once there is something to keep."""
        if self.cloud is None:
            self._see()
        assert self.cloud is not None
        self.handling = self.scene.handling(self.anchors)
        self.flight = self._start()
        self._cut()
        if self.done < 2:
            if self.config.parity:
                self.cloud = self._drawn_together(self.cloud)
            views = smaller(self.video.frames[0], self.config.image_pixels)
            self.cloud = appearance(self.cloud, views, self.config, self.progress)
            self.done = 2
            self._save()
        self.dynamics = self._dynamics(self.cloud)
        if self.state is None:
            self._scan()
        try:
            self._descend()
        except KeyboardInterrupt:
            self.stopped = True
            self.progress.say("stopped: keeping the best so far")

    def parts(self) -> TwinParts:
        """What the twin is made of."""
        assert self.cloud is not None and self.state is not None  # noqa: PT018
        return TwinParts(
            config=self.config,
            scene=self.scene,
            video=self.motion,
            cloud=self.cloud,
            dynamics=self.dynamics,
            flight=self.flight,
            values=self.state.best,
            fit=self.fit,
            train=self.train,
            losses=self._losses(),
            scanned=self.scanned,
            stopped=self.stopped,
        )

    def _see(self) -> None:
        """Static Gaussians of the first frame, and anchors in them."""
        config, views = self.config, smaller(self.video.frames[0], self.config.image_pixels)
        if config.scan is not None:
            cloud, inside = scanned_cloud(config.scan, views, self.progress), np.zeros((0, 3))
        else:
            surface, inside = self.scene.start_points(views, config.gaussians)
            cloud = static_cloud(surface, views, config, self.progress)
            if self.scene.has_surface:
                inside = np.concatenate([inside, unseen(surface, cloud, views)])
        points = np.concatenate([cloud.mean.double().numpy(), inside])
        filled = self.scene.kind == "volume" and not config.parity
        anchors = volume_sample(points, config.anchors, filled=filled, seed=config.seed)
        self.cloud, self.anchors = cloud, above_ground(anchors, self.scene.ground)
        self.done = 1
        self.progress.say(f"{len(cloud)} Gaussians on {len(anchors)} anchors")
        self._save()

    def _start(self) -> Flight:
        """How fast the body is in frame 0."""
        config, given = self.config, self.config.start_velocity_m_per_s
        assert self.cloud is not None
        points = self.cloud.mean.double().numpy()
        if given is not None:
            free = any(given) or not any(grip.start == 0 for grip in self.handling.grips)
            return Flight(np.array(given, np.float64), 1 if free else 0)
        flight = find_flight(self.motion, self.scene, points, self.handling)
        if not flight.free:
            self.progress.say("the body is held or stands at the start")
            return flight
        if self.velocity is None:
            loss = VideoLoss(self.motion, self.cloud, self._weights)
            with self.progress.stage("start velocity", config.steps("velocity")) as tick:
                self.velocity = polish_velocity(
                    loss, flight, self.scene, steps=config.steps("velocity"), on_step=tick
                )
            x, y, z = self.velocity
            self.progress.say(
                f"it flies with ({x:.2f}, {y:.2f}, {z:.2f}) m/s up to frame {flight.contact}"
            )
            self._save()
        return dataclasses.replace(flight, velocity_m_per_s=self.velocity)

    def _cut(self) -> None:
        """Where fitted and held-out frames part, or why the video is too short."""
        ticks = self.scene.tick
        usable = int(np.searchsorted(ticks, min(self.handling.until, self.scene.clock.ticks)))
        self.train = min(len(self.motion), usable)
        contact = min(self.flight.contact, self.train)
        touched = self.train - contact
        held = max(_FEWEST_HELD_OUT, round(self.config.held_out_share * touched))
        self.fit = self.train - held
        if self.fit < max(contact, 1) + _FEWEST_TOUCHED:
            raise DataError(
                f"the first contact is in frame {contact} and fitting ends with frame "
                f"{self.fit - 1}",
                where=f"{self.video.name}: stage dynamics",
                expected=f"at least {_FEWEST_TOUCHED} frames after the first contact besides "
                f"{held} that are held out",
                fix="raise --train, or record longer",
            )

    def _binding(self, cloud: GaussianCloud) -> Any:
        return bind(
            cloud.mean.double(),
            torch.as_tensor(self.anchors),
            neighbours=self.config.bind_neighbours,
            power=self.config.bind_power,
        )

    def _drawn_together(self, cloud: GaussianCloud) -> GaussianCloud:
        """Centres at the weighted mean of their anchors, as the authors' binding has them.

        From there, following the displacements of the anchors is following their weighted mean.
        """
        anchors = torch.as_tensor(self.anchors)
        mean = inverse_distance(self._binding(cloud), anchors, absolute=True)
        return cloud.replace(mean=mean.float())

    @property
    def _weights(self) -> LossWeights:
        return LossWeights(self.config.dssim, self.config.mask_weight, self.config.centre_weight)

    def _dynamics(self, cloud: GaussianCloud) -> Dynamics:
        config, carried = self.config, self._carried()
        ground, clock = self.scene.ground, self.scene.clock
        if ground is not None and carried.any():  # they would fall the last millimetre
            height = self.anchors @ np.array(ground.normal) - ground.offset_m
            self.anchors = self.anchors - np.outer(carried * height, ground.normal)
        body = AnchorBody(
            self.anchors,
            anchor_springs(self.anchors, neighbours=config.neighbours, certain=config.certain),
            config.mass_kg or _ASSUMED_KG,
            config.law_power,
            self.scene.gravity,
            config.ground(ground, clock.dt_s),
            carried,
            directed=config.parity,
        )
        rollouts = AnchorRollouts(
            body, self.handling.grips, self.handling.pushers, clock.dt_s, clock.ticks
        )
        return Dynamics(
            rollouts,
            self._binding(cloud),
            VideoLoss(self.motion, cloud, self._weights),
            self.scene.tick,
            truncate=config.parity,
        )

    def _carried(self) -> np.ndarray:
        """Anchors that a standing body rests on; none of a sheet or rope, or of what is held."""
        ground, count = self.scene.ground, len(self.anchors)
        held = any(grip.start == 0 for grip in self.handling.grips)
        if ground is None or held or self.flight.free or self.scene.kind != "volume":
            return np.zeros(count, bool)
        height = self.anchors @ np.array(ground.normal) - ground.offset_m
        reach = _RESTS_ON * float(
            np.median(cKDTree(self.anchors).query(self.anchors, k=2)[0][:, 1])
        )
        low = np.asarray(height < reach)
        return low if low.sum() >= 3 else np.zeros(count, bool)

    def _scan(self) -> None:
        """Where the descent starts."""
        touched = range(max(self.flight.contact - 1, 1), self.fit)
        stride = max(1, len(touched) // _SCAN_FRAMES)
        now, self.scanned, loss = scanned_start(
            self.dynamics,
            self.flight.velocity_m_per_s,
            list(touched)[::stride],
            held_out=range(self.fit, self.train),
            still=range(max(min(self.flight.contact, self.fit), 1)),
            per_anchor=self.config.per_anchor,
            name=self.video.name,
        )
        self.state = DynamicState(now=now, best={k: np.array(v) for k, v in now.items()})
        stiffness, dashpot = (float(np.exp(now[f"log_{k}"])) for k in ("stiffness", "dashpot"))
        ends = float(np.ptp(now["offset"]))
        self.progress.say(
            f"stiffness {stiffness:.3g} N, dashpots {dashpot:.2g} N s/m, loss {loss:.4f}"
            + (f", {np.exp(ends):.1f} times as stiff at one end as at the other" if ends else "")
        )
        self._save()

    def _descend(self) -> None:
        assert self.state is not None
        fixed = [] if self.config.per_anchor else ["offset"]
        if not (self.config.fit_velocity and self.flight.free):
            fixed.append("velocity")
        fixed += self.dynamics.idle
        steps = self.config.steps("dynamic")
        descent = Descent(
            self.dynamics,
            self.state,
            steps=steps,
            fit=self.fit,
            train=self.train,
            evenness=self.config.evenness,
            fixed=fixed,
        )
        with self.progress.stage("springs", steps) as tick:

            def on_step(step: int, loss: float) -> None:
                tick(step, loss)
                if step % _SAVE_STEPS == 0:
                    self._save()

            descent.run(self.flight.contact + _FEWEST_TOUCHED, on_step)

    def _losses(self) -> dict[str, float]:
        """Held-out loss of the twin and of motions that need no springs."""
        assert self.state is not None and self.cloud is not None  # noqa: PT018
        frames, loss = list(range(self.fit, self.train)), self.dynamics.loss
        rigid = rigid_means(self.cloud, self.scene, self.flight)
        return {
            "springs": self.dynamics.loss_of(self.state.best, frames),
            "rigid": loss.mean_over(frames, rigid),
            "frozen": loss.mean_over(frames, lambda t: loss.cloud.mean),
        }

    def _save(self) -> None:
        if self.run is None or self.cloud is None:
            return
        arrays = {f"cloud.{k}": v.numpy() for k, v in vars(self.cloud.detach()).items()}
        arrays["anchors"] = self.anchors
        meta: dict[str, Any] = {
            "done": self.done, "scanned": self.scanned, "frames": len(self.video),
        }  # fmt: skip
        if self.velocity is not None:
            arrays["velocity"] = self.velocity
        state = self.state
        if state is not None:
            for group in ("now", "best"):
                arrays |= {f"{group}.{k}": np.asarray(v) for k, v in getattr(state, group).items()}
            for key, pair in state.moments.items():
                arrays |= {f"moment{i}.{key}": np.asarray(m) for i, m in enumerate(pair)}
            meta["state"] = {
                "best_loss": state.best_loss if np.isfinite(state.best_loss) else None,
                "step": state.step, "rate": state.rate, "history": state.history,
            }  # fmt: skip
        step = self.done + (0 if state is None else 1 + state.step)
        self.run.save_checkpoint(step, arrays, meta)

    def _restore(self, checkpoint: Checkpoint) -> None:
        arrays, meta = checkpoint.arrays, checkpoint.meta
        if meta["frames"] != len(self.video):
            raise DataError(
                f"a video of {len(self.video)} frames",
                where="--resume",
                expected=f"{meta['frames']}, as when the run was begun",
                fix="use the same --train, or begin anew",
            )

        def group(prefix: str) -> dict[str, np.ndarray]:
            start = prefix + "."
            return {k[len(start) :]: v for k, v in arrays.items() if k.startswith(start)}

        cloud = {k: torch.from_numpy(v.copy()) for k, v in group("cloud").items()}
        self.cloud, self.anchors = GaussianCloud(**cloud), arrays["anchors"]
        self.velocity = arrays.get("velocity")
        self.done, self.scanned = int(meta["done"]), dict(meta["scanned"])
        if "state" in meta:
            kept = dict(meta["state"])
            kept["best_loss"] = float("inf") if kept["best_loss"] is None else kept["best_loss"]
            first, second = group("moment0"), group("moment1")
            moments = {k: (first[k], second[k]) for k in first}
            self.state = DynamicState(group("now"), group("best"), moments=moments, **kept)
