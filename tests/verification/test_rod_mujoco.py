"""The rod against another solver: a chain of MuJoCo's rigid links with springs in ball joints.

(MuJoCo's cable plugin, which is the same chain, left MuJoCo with version 4.)
"""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from rod_lab import Array, Lab, uniform
from scipy.optimize import brentq

NODES, LENGTH_M, DENSITY, STIFFNESS = 21, 1.0, 0.05, 2e-3
EDGE_M = LENGTH_M / (NODES - 1)


def _arc(span_m: float) -> Array:
    """Nodes on an arc of a circle of the cable's length that hangs between two points."""
    q = brentq(lambda q: np.sin(q) / q - span_m / LENGTH_M, 1e-3, 3.0)
    angle = np.linspace(-q, q, NODES)
    x = np.stack([np.sin(angle) + np.sin(q), 0.0 * angle, np.cos(q) - np.cos(angle)], -1)
    return x * LENGTH_M / (2.0 * q)


def _link(index: int) -> str:
    if index == NODES - 1:
        return ""
    # Bending moment EI / l times the turning angle; twist is as stiff, and stays zero in a plane.
    joint = f'<joint type="ball" stiffness="{STIFFNESS / EDGE_M}" damping="1e-3"/>'
    return f"""<body name="link{index}" pos="{EDGE_M if index else 0} 0 0">{joint if index else ""}
      <geom type="capsule" fromto="0 0 0 {EDGE_M} 0 0" size="0.004" mass="{DENSITY * EDGE_M}"
            contype="0" conaffinity="0"/>{_link(index + 1)}</body>"""


def _mujoco_at_rest(span_m: float) -> Array:
    """Nodes of the chain at rest between two clamps that point along x, (N, 3)."""
    model = mujoco.MjModel.from_xml_string(f"""<mujoco>
      <option gravity="0 0 -9.81" timestep="0.002" integrator="implicitfast"/>
      <worldbody>
        <body name="far" mocap="true" pos="{LENGTH_M - EDGE_M} 0 0"/>{_link(0)}
      </worldbody>
      <equality><weld body1="far" body2="link{NODES - 2}" relpose="0 0 0 1 0 0 0"
        solref="0.006 1" solimp="0.999 0.9999 0.001"/></equality>
    </mujoco>""")
    data = mujoco.MjData(model)
    steps = 2000
    for step in range(2 * steps):  # push the far clamp in for 4 s, wait for 4 s
        share = min(step / steps, 1.0)
        data.mocap_pos[0, 0] = (LENGTH_M - EDGE_M) + share * (span_m - LENGTH_M)
        mujoco.mj_step(model, data)
    assert np.abs(data.qvel).max() < 1e-2
    links = [model.body(f"link{i}").id for i in range(NODES - 1)]
    end = data.xpos[links[-1]] + data.xmat[links[-1]].reshape(3, 3) @ [EDGE_M, 0.0, 0.0]
    return np.concatenate([data.xpos[links], end[None]])


@pytest.mark.parametrize("span_m", [0.95, 0.8])
def test_sag_between_two_clamps(span_m: float) -> None:
    theirs = _mujoco_at_rest(span_m)
    ends = (0, 1, NODES - 2, NODES - 1)
    x = _arc(span_m)
    path = np.repeat(x[None, list(ends)], 101, axis=0)
    level = np.array([[0, 0, 0], [EDGE_M, 0, 0], [span_m - EDGE_M, 0, 0], [span_m, 0, 0]])
    path += np.linspace(0.0, 1.0, 101)[:, None, None] * (level - path[0])
    held = uniform(
        NODES, bending_stiffness_nm2=STIFFNESS, twist_stiffness_nm2=STIFFNESS, drag_per_s=5.0,
        bending_damping_s=0.01, stretch_stiffness_n=200.0,
    )  # fmt: skip
    rod = Lab(x, ends, held, gravity=(0.0, 0.0, -9.81))
    rod.run(100, 0.01, path)
    ours = rod.run(400, 0.01)[-1]
    sag = -theirs[:, 2].min()
    assert sag > 0.1
    # The same chain but for: moments of phi against phi + phi^3/3 (3 % at the largest angle, 0.3),
    # links that stretch by T/EA = 2e-3 or not at all, and the weld, which gives by a millimetre.
    assert np.abs(ours - theirs).max() < 0.02 * sag
