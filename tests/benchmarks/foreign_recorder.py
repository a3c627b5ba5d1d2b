"""Records `tests.benchmarks.foreign_scenes`: MuJoCo's soft bodies, pictures, depth noise, truth.

Physics and pictures are MuJoCo's, as those of `physgym.cell.SoftCell` are, but nothing of that
cell is used: not its meshes, textures, lamps, grippers or depth noise. The true motion of every
node is kept beside the recording. The random numbers are drawn as in the first recordings of these
scenes, so that figures compare.
MuJoCo's implicit steps take angular momentum: of a ball that spins at 6.3 rad/s, 8 % in 0.1 s of
flight at 1/480 s, 0.6 % at 1/1920 s.
Shapes: N nodes, T frames, C cameras.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from physgym.camera import PinholeCamera
from physgym.cell.rendering import choose_gl_backend
from physgym.errors import BlowUpError
from recon.episode_write import EpisodeWriter
from recon.tracks import Tracks
from tests.benchmarks.foreign_scenes import (
    CENTRE,
    TABLE_M,
    Actor,
    Scene,
    cameras_of,
    mesh_of,
)

choose_gl_backend()
import mujoco  # it reads MUJOCO_GL when it is imported

__all__ = ["Reality", "noisy_depth", "record"]

FRICTION, DAMPING, POISSON = 0.6, 0.005, 0.3
SETTLE_S, START_STAMP_S = 1.5, 100.0
SOLREF = "0.01 1"  # contact of object and table: 10 ms, critically damped
TABLE_HALF_M = (0.7, 0.6, 0.02)
TEXTURE_PIXELS, OBJECT_RGB, TABLE_RGB = 256, (220, 120, 90), (150, 160, 170)
PIXEL_NOISE, FAR_M, DEPTH_RANGE_M = 2.0, 7.5, 4.0
BASELINE_M, DISPARITY_NOISE_PX, DISPARITY_STEPS_PER_PX = 0.05, 0.08, 32
UPRIGHT = (1.0, 0.0, 0.0, 0.0)
PAINT = 'rgba="0.2 0.3 0.7 1"'


class Reality:
    """What really happens.

    Attributes:
        scene: what was asked for.
        mesh: the object at rest.
        mass_kg: of each node, shape (N,).
        model: MuJoCo's.
        data: MuJoCo's.
        dofs: where velocities of the nodes are in ``data.qvel``, shape (N, 3).
        held: nodes that any gripper has held so far.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self.mesh = scene, mesh_of(scene)
        self.mass_kg = scene.density_kg_per_m3 * self.mesh.node_volume_m3
        rng = np.random.default_rng(scene.seed)
        assets = {f"{name}.png": _texture(rng, rgb) for name, rgb in _COLOURS.items()}
        text = _mjcf(scene, self.mesh.tets, self.mesh.nodes, _laid_out(scene, self.mesh.nodes),
                     float(self.mass_kg.sum()))  # fmt: skip
        self.model = mujoco.MjModel.from_xml_string(text, assets)
        self.data = mujoco.MjData(self.model)
        self._bodies = np.array([self.model.body(f"soft_{k}").id for k in range(len(self.mass_kg))])
        first = self.model.jnt_dofadr[self.model.body_jntadr[self._bodies]]
        self.dofs = first[:, None] + np.arange(3)
        self.held: set[int] = set()
        self._closed = [False] * len(scene.actors)
        self._share_mass()
        self._begin()

    @property
    def nodes(self) -> np.ndarray:
        """True positions [m], shape (N, 3)."""
        return np.array(self.data.xpos[self._bodies])

    def advance(self, time_s: float) -> None:
        """Go on to a time since the first frame [s].

        Raises:
            BlowUpError: if the simulation left the finite numbers.
        """
        while self.data.time < time_s - 0.5 * self.scene.timestep_s:
            self._act()
            mujoco.mj_step(self.model, self.data)
        wrong = ~np.isfinite(self.data.qpos)
        if wrong.any():
            raise BlowUpError(
                f"{self.scene.name} blew up", world=0, node=int(np.argmax(wrong)) // 3,
                substep=round(time_s / self.scene.timestep_s), fix="move actors slower",
            )  # fmt: skip
        self._act()
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_flex(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _share_mass(self) -> None:
        """Give every node the mass of the material around it, not an equal share."""
        ratio = self.mass_kg / self.model.body_mass[self._bodies]
        self.model.body_mass[self._bodies] *= ratio
        self.model.body_inertia[self._bodies] *= ratio[:, None]
        mujoco.mj_setConst(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)

    def _begin(self) -> None:
        """Let what stands come to rest, and throw what flies."""
        if self.scene.gap_m is None:
            for _ in range(round(SETTLE_S / self.scene.timestep_s)):
                mujoco.mj_step(self.model, self.data)
            self.data.time = 0.0
            return
        centre = np.average(self.nodes, axis=0, weights=self.mass_kg)
        velocity = np.array(self.scene.velocity_m_per_s)
        velocity = velocity + np.cross(self.scene.spin_rad_per_s, self.nodes - centre)
        self.data.qvel[self.dofs] = velocity

    def _act(self) -> None:
        for i, actor in enumerate(self.scene.actors):
            place = np.array(actor.path(self.data.time))
            self.data.mocap_pos[i], self.data.mocap_quat[i] = place, UPRIGHT
            closed = actor.closed(self.data.time)
            if closed != self._closed[i]:
                self._closed[i] = closed
                self._hold(i, actor, place, closed=closed)

    def _hold(self, index: int, actor: Actor, place: np.ndarray, *, closed: bool) -> None:
        """Tie the nodes between the jaws to the gripper, or let all go."""
        local = self.nodes - place
        between = (np.abs(local) <= np.array(actor.half_m) + 1e-6).all(axis=1)
        for k, offset in enumerate(local):
            tie = self.model.equality(f"tie{index}_{k}").id
            self.data.eq_active[tie] = closed and between[k]
            if closed and between[k]:
                self.model.eq_data[tie, :6] = (0.0, 0.0, 0.0, *offset)
                self.held.add(k)


_COLOURS = {"object": OBJECT_RGB, "table": TABLE_RGB}


def _laid_out(scene: Scene, nodes: np.ndarray) -> np.ndarray:
    """Where the nodes are at first [m]; what stands begins half a millimetre up."""
    turned = nodes @ Rotation.from_rotvec(scene.turn_rad).as_matrix().T
    gap_m = 5e-4 if scene.gap_m is None else scene.gap_m
    shift = np.array([*CENTRE, TABLE_M + gap_m - turned[:, 2].min()])
    return np.asarray(turned + shift)


def _texture(rng: np.random.Generator, rgb: tuple[int, int, int]) -> bytes:
    """A PNG of three sizes of blotches."""
    image = np.zeros((TEXTURE_PIXELS, TEXTURE_PIXELS, 3))
    for blotches, share in ((4, 0.35), (16, 0.35), (64, 0.3)):
        coarse = rng.random((blotches, blotches, 3))
        image += share * cv2.resize(coarse, image.shape[:2], interpolation=cv2.INTER_CUBIC)
    image = np.clip(image * 1.5 - 0.15, 0, 1) * 0.85 * 255 * np.array(rgb) / max(rgb) + 25
    return cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8)[..., ::-1])[1].tobytes()


def _mjcf(
    scene: Scene, tets: np.ndarray, rest: np.ndarray, nodes: np.ndarray, mass_kg: float
) -> str:
    """The whole scene, lit by one lamp from above."""
    local = rest / max(scene.size_m)
    texcoord = local[:, :2] + local[:, 2:] * (0.37, 0.61) + 0.5
    x, y = CENTRE
    touch = f'friction="{FRICTION}" solref="{SOLREF}"'
    return f"""<mujoco>
<option timestep="{scene.timestep_s}" integrator="discrete" solver="CG" tolerance="1e-6"
  iterations="600"/>
<statistic extent="1" center="0 0 0"/>
<visual><global offwidth="{scene.width}" offheight="{scene.height}"/>
  <quality shadowsize="1024" offsamples="4"/><map znear="0.02" zfar="8"/>
  <headlight ambient=".45 .45 .45" diffuse=".3 .3 .3" specular="0 0 0"/></visual>
<asset><texture name="object" type="2d" file="object.png"/>
  <texture name="table" type="2d" file="table.png"/>
  <material name="object" texture="object"/>
  <material name="table" texture="table" texuniform="true" texrepeat="2 2"/></asset>
<worldbody>
<light pos="{x + 0.4} {y - 0.3} {TABLE_M + 1.6}" dir="-.2 .2 -1" diffuse=".5 .5 .5"/>
<geom name="floor" type="plane" size="6 6 .1" pos="0 0 {TABLE_M - 0.75}" rgba=".3 .3 .33 1"
  contype="0" conaffinity="0"/>
<geom name="table" type="box" size="{_text(TABLE_HALF_M)}" pos="{x} {y} {TABLE_M - TABLE_HALF_M[2]}"
  material="table" contype="0" conaffinity="1" {touch} priority="1"/>
{"".join(_camera_xml(camera) for camera in cameras_of(scene))}
{"".join(_actor_xml(i, actor) for i, actor in enumerate(scene.actors))}
<flexcomp name="soft" type="direct" dim="3" radius="0.0" mass="{mass_kg}" point="{_text(nodes)}"
  element="{" ".join(map(str, tets.ravel()))}" texcoord="{_text(texcoord)}" material="object">
<contact contype="1" conaffinity="1" condim="3" {touch} selfcollide="none"/>
<elasticity young="{scene.young_pa}" poisson="{POISSON}" damping="{DAMPING}"/></flexcomp>
</worldbody><equality>{_ties_xml(scene, len(nodes))}</equality></mujoco>"""


def _text(values: Any) -> str:
    return " ".join(repr(float(value)) for value in np.asarray(values).ravel())


def _camera_xml(camera: PinholeCamera) -> str:
    turn, focal = camera.T_world_cam[:3, :3], camera.K[1, 1]
    fovy = math.degrees(2.0 * math.atan(0.5 * camera.height / focal))
    axes = _text([turn[:, 0], -turn[:, 1]])
    return (
        f'<camera name="{camera.name}" pos="{_text(camera.position)}" xyaxes="{axes}" '
        f'fovy="{fovy!r}"/>'
    )


def _actor_xml(index: int, actor: Actor) -> str:
    """A plate; or two fingers under a palm, which touch nothing: `Reality` ties what they hold."""
    if actor.holds_s is None:
        parts = (
            f'<geom type="box" size="{_text(actor.half_m)}" {PAINT} friction="{FRICTION}" '
            'contype="0" conaffinity="1"/>'
        )
    else:
        width = actor.half_m[1]
        boxes = (
            ((0.008, 0.006, 0.03), (0.0, width + 0.006, 0.02)),
            ((0.008, 0.006, 0.03), (0.0, -width - 0.006, 0.02)),
            ((0.012, width + 0.02, 0.01), (0.0, 0.0, 0.06)),
        )
        parts = "".join(
            f'<geom type="box" size="{_text(half)}" pos="{_text(at)}" {PAINT} contype="0" '
            'conaffinity="0"/>'
            for half, at in boxes
        )
    return f'<body name="actor{index}" mocap="true" pos="0 0 5">{parts}</body>'


def _ties_xml(scene: Scene, nodes: int) -> str:
    """One of each gripper to each node, all open."""
    return "".join(
        f'<connect name="tie{i}_{k}" body1="soft_{k}" body2="actor{i}" anchor="0 0 0" '
        'active="false" solref="0.008 1"/>'
        for i, actor in enumerate(scene.actors)
        if actor.holds_s is not None
        for k in range(nodes)
    )


def noisy_depth(depth_m: np.ndarray, focal_px: float, rng: np.random.Generator) -> np.ndarray:
    """What a stereo camera would say.

    Disparity is blurred noise in steps of 1/32 pixel; half of the pixels at edges are lost, few
    others, and some blobs.

    Args:
        depth_m: exact, 0 where there is none, shape (H, W).
        focal_px: of the camera.
        rng: where the noise comes from.

    Returns:
        Metres, 0 where nothing was measured, shape (H, W), float32.
    """
    known = depth_m > 0
    disparity = focal_px * BASELINE_M / np.where(known, depth_m, 1.0).astype(np.float64)
    disparity += DISPARITY_NOISE_PX * _blurred(rng, depth_m.shape, 1.2)
    disparity = np.round(disparity * DISPARITY_STEPS_PER_PX) / DISPARITY_STEPS_PER_PX
    found = np.where(
        known & (disparity > 0), focal_px * BASELINE_M / np.maximum(disparity, 1e-6), 0.0
    )
    around, near = np.ones((3, 3), np.uint8), np.where(known, depth_m, 0).astype(np.float32)
    step = cv2.dilate(near, around) - cv2.erode(near, around) > 0.03 * np.maximum(near, 0.05)
    edge = cv2.dilate(step.astype(np.uint8), around) > 0
    lot = rng.random(depth_m.shape)
    found[(edge & (lot < 0.5)) | (lot < 0.004)] = 0.0
    found[_blurred(rng, depth_m.shape, 4.0) > 2.6] = 0.0
    return np.where(found > DEPTH_RANGE_M, 0.0, np.round(found * 1e3) / 1e3).astype(np.float32)


def _blurred(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> np.ndarray:
    """Noise of standard deviation 1 that neighbours share."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), sigma_px)
    return np.asarray(noise / noise.std())


def record(scene: Scene, path: Path) -> None:
    """Record a scene, with the true motion of its nodes.

    Args:
        scene: which.
        path: of the episode; must not exist.

    Raises:
        BlowUpError: if the simulation left the finite numbers.
        DataError: if the episode cannot be written.
    """
    reality, cameras = Reality(scene), cameras_of(scene)
    rng, places, stamps_s = np.random.default_rng(scene.seed + 7), [], []
    with (
        mujoco.Renderer(reality.model, scene.height, scene.width, max_geom=2000) as renderer,
        EpisodeWriter(path, cameras, name=scene.name, metadata=_metadata(reality)) as writer,
    ):
        for n in range(scene.frames):
            reality.advance(n / scene.fps)
            stamp_s = START_STAMP_S + n / scene.fps
            places.append(reality.nodes)
            stamps_s.append(stamp_s)
            _write_actors(writer, scene, n / scene.fps, stamp_s)
            for camera in cameras:
                renderer.update_scene(reality.data, camera=camera.name)
                rgb, depth_m, mask = _shot(renderer, scene, camera, rng)
                writer.write_frame(camera.name, stamp_s, rgb, depth_m)
                if scene.masks:
                    writer.write_mask(camera.name, stamp_s, "object", mask)
                if n > 0:
                    rng.uniform()  # stamps once trembled; later noise is to stay what it was
        writer.set_ground_truth(
            Tracks(
                time_s=np.array(stamps_s),
                position=np.stack(places),
                visible=np.ones((scene.frames, len(reality.mass_kg)), bool),
                driven_index=np.array(sorted(reality.held), np.int64),
                name=scene.name,
                rest_position=reality.mesh.nodes,
            )
        )


def _shot(
    renderer: Any, scene: Scene, camera: PinholeCamera, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy colours, depth [m] and the object's mask of one camera."""
    exact = renderer.render()
    rgb = np.clip(exact + rng.normal(0, PIXEL_NOISE, exact.shape), 0, 255).astype(np.uint8)
    renderer.enable_depth_rendering()
    depth_m = renderer.render().copy()
    renderer.disable_depth_rendering()
    depth_m[depth_m > FAR_M] = 0.0
    renderer.enable_segmentation_rendering()
    mask = renderer.render()[..., 1] == int(mujoco.mjtObj.mjOBJ_FLEX)
    renderer.disable_segmentation_rendering()
    if scene.noisy:
        depth_m = noisy_depth(depth_m, float(camera.K[0, 0]), rng)
    return rgb, depth_m, mask


def _metadata(reality: Reality) -> dict[str, Any]:
    scene, mass_kg = reality.scene, float(reality.mass_kg.sum())
    plates = [a for a in scene.actors if a.holds_s is None]
    grippers = [a for a in scene.actors if a.holds_s is not None]
    made: dict[str, Any] = {
        "simulated": True,
        "source": "tests.benchmarks.foreign_recorder",
        "truth": {"young_pa": scene.young_pa, "mass_kg": mass_kg},
        "plates": [{"half_m": list(a.half_m)} for a in plates],
        "grippers": [{"jaw_half_m": list(a.half_m)} for a in grippers],
    }
    return {**made, "object": {"mass_kg": mass_kg}} if scene.mass_told else made


def _write_actors(writer: EpisodeWriter, scene: Scene, time_s: float, stamp_s: float) -> None:
    plates = grippers = 0
    for actor in scene.actors:
        place = actor.path(time_s)
        if actor.holds_s is None:
            writer.write_plate(plates, stamp_s, place, UPRIGHT)
            plates += 1
        else:
            closed = actor.closed(time_s)
            writer.write_gripper(grippers, stamp_s, place, UPRIGHT, closed=closed)
            grippers += 1
