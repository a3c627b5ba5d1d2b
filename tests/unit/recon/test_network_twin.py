"""Twins of spring networks: of a cloth of finite elements, interrupted, damaged."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from network_cases import SPACING_M, grid, moved, neighbours, own_recording

from physgym.errors import TwinError
from physgym.run_folder import RunFolder
from physgym.sim.build import build_solver
from physgym.sim.contact import GroundPlane
from physgym.twin import Twin
from physgym.world import World
from recon.identify.phystwin import PhysTwinConfig, identify
from recon.identify.progress import Progress
from recon.predict import predict
from recon.tracks import Tracks


def flex_recording(side=7, seconds=1.6, fps=50, seed=2):
    """A cloth of MuJoCo's finite elements, dropped while two corners move."""
    mujoco = pytest.importorskip("mujoco")
    step_s = 5e-4
    size = f"{SPACING_M} {SPACING_M} {SPACING_M}"
    model = mujoco.MjModel.from_xml_string(f"""<mujoco>
      <option timestep="{step_s}" solver="CG" tolerance="1e-6" integrator="discrete"/>
      <worldbody>
        <flexcomp name="sheet" type="grid" count="{side} {side} 1" spacing="{size}" pos="0 0 1"
                  dim="2" radius=".001" mass="{1e-3 * side * side}">
          <contact selfcollide="none" contype="0" conaffinity="0"/>
          <elasticity young="2e5" poisson="0.3" thickness="1e-3" damping="1e-3" elastic2d="both"/>
        </flexcomp>
      </worldbody></mujoco>""")
    model.dof_damping[:] = 1.5e-3
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    driven = np.array([0, (side - 1) * side])
    rest = data.flexvert_xpos.copy()
    substeps, frames = round(1.0 / fps / step_s), round(seconds * fps) + 1
    ticks = (frames - 1) * substeps + 1
    path = moved(rest, driven, frames=ticks, fps=1.0 / step_s, seed=seed) - rest[driven]
    position = [rest]
    for tick in range(1, len(path)):
        mujoco.mj_step(model, data)
        for k, node in enumerate(driven):
            data.qpos[3 * node : 3 * node + 3] = path[tick, k]
            data.qvel[3 * node : 3 * node + 3] = (path[tick, k] - path[tick - 1, k]) / step_s
        if tick % substeps == 0:
            mujoco.mj_kinematics(model, data)
            mujoco.mj_flex(model, data)
            position.append(data.flexvert_xpos.copy())
    seen = np.ones((frames, side * side), bool)
    return Tracks(np.arange(frames) / fps, np.array(position), seen, driven, "flex")


def rigid_with_chord(tracks):
    """The second frame's shape, turned by the least that follows the chord of two driven points."""
    start, path = tracks.position[1].astype(float), tracks.driven.astype(float)
    chord = path[:, 1] - path[:, 0]
    chord /= np.linalg.norm(chord, axis=1, keepdims=True)
    own = chord[1]
    arm = start - path[1].mean(axis=0)
    made = []
    for t, target in enumerate(chord):
        axis, cosine = np.cross(own, target), own @ target
        skew = np.cross(np.eye(3), axis)
        turn = np.eye(3) + skew + skew @ skew / (1.0 + cosine)
        assert np.allclose(turn @ own, target, atol=1e-9)
        made.append(arm @ turn.T + path[t].mean(axis=0))
    return np.array(made)


def mean_error(position, tracks):
    off = np.linalg.norm(position - tracks.position, axis=-1)
    return float(off[2:, tracks.free_index].mean())


def test_twin_of_a_finite_element_cloth_predicts_what_it_has_not_seen(tmp_path):
    tracks = flex_recording()
    cut = round(0.7 * tracks.frame_count)
    train, held = tracks.slice(0, cut), tracks.slice(cut, tracks.frame_count)
    twin = identify([train], name="cloth")
    assert (twin.kind, twin.dynamics, twin.method) == ("sheet", "spring_mass", "phystwin")
    assert "mass_kg" in twin.provenance["assumed"]
    assert set(twin.uncertainty) >= {"stiffness_n", "dashpot_ns_per_m", "drag_per_s"}
    error = mean_error(predict(twin, [held])[0], held)
    frozen = mean_error(np.repeat(held.position[1:2], held.frame_count, axis=0), held)
    rigid = mean_error(rigid_with_chord(held), held)
    print(json.dumps({"twin_m": error, "frozen_m": frozen, "rigid_m": rigid}))
    # Measured over seeds 0, 1, 2: a seventh to a fifteenth of frozen, a fourth to a fifteenth of
    # rigid; a third leaves room for other versions of the libraries.
    assert error < frozen / 3
    assert error < rigid / 3
    twin.save(tmp_path / "cloth")
    again = Twin.load(tmp_path / "cloth")
    assert again.content_hash() == twin.content_hash()
    world = World(again, worlds=2)
    world.set_points(held.position[0].copy())
    world.step(np.zeros((2, 2, 3)), dt_s=0.02)
    assert torch.isfinite(world.position).all()
    assert torch.equal(world.position[0], world.position[1])


class Impatient(Progress):
    """Presses Ctrl-C after so many steps of a stage."""

    def __init__(self, stage, steps):
        self.at, self.steps, self.said = stage, steps, []

    @contextmanager
    def stage(self, name, total):
        def tick(step, value):
            if name.startswith(self.at) and step >= self.steps:
                raise KeyboardInterrupt

        yield tick

    def say(self, text):
        self.said.append(text)


@pytest.mark.parametrize(("stage", "steps"), [("search", 3), ("refine every", 25)])
def test_interrupt_keeps_the_best_and_a_run_goes_on(tmp_path, stage, steps):
    rest = grid(4, 4)
    tracks = own_recording(rest, neighbours(rest), [0, 12], seconds=0.35)
    config = PhysTwinConfig(kind="network", mass_kg=0.014, ground_height_m=0.5)
    with RunFolder(tmp_path / "run", config) as run:
        first = identify([tracks], config, progress=Impatient(stage, steps), run=run)
        assert first.provenance["stopped_early"]
        assert "mass_kg" not in first.provenance["assumed"]
        assert build_solver(first).model.ground == GroundPlane(offset_m=0.5)
        saved = run.latest_checkpoint()
    assert (saved is None) == (stage == "search")
    if saved is not None:
        assert 20 <= saved.meta["steps_done"] <= steps
        with RunFolder(tmp_path / "run", config, resume=True) as run:
            again = identify([tracks], config, run=run)
        assert not again.provenance["stopped_early"]
        assert np.array_equal(again.parameters["springs"], first.parameters["springs"])


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_damaged_parameters_are_named(change):
    rest = grid(3, 3)
    edges = neighbours(rest)
    parameters = {
        "springs": edges,
        "spring_rest_length_m": np.full(len(edges), SPACING_M),
        "log_stiffness_ratio": np.zeros(len(edges)),
        "stiffness_n": np.array(1.0),
        "dashpot_ns_per_m": np.array(0.0),
        "drag_per_s": np.array(0.0),
        "mass_kg": np.array(0.01),
        "gravity_m_per_s2": np.array([0.0, 0.0, -9.81]),
    }
    twin = Twin("t", "sheet", "spring_mass", "phystwin", rest, np.array([0]), parameters)
    assert build_solver(twin).node_count == 9
    if change == "missing":
        del parameters["drag_per_s"]
    else:
        parameters["viscosity"] = np.array(1.0)
    with pytest.raises(TwinError, match=r"drag_per_s|viscosity"):
        build_solver(twin.replace(parameters=parameters))
