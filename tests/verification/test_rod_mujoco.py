"""The rod against another solver: MuJoCo's cable plugin, which shares no line with it."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from rod_lab import Array, Lab, uniform

NODES, LENGTH_M, RADIUS_M, DENSITY = 21, 1.0, 0.005, 640.0
YOUNG_PA, SHEAR_PA = 2e6, 1e6
GRAVITY = (0.0, 0.0, -9.81)


def _arc(span_m: float) -> Array:
    """Nodes on an arc of a circle of the cable's length that hangs between two points."""
    low, high = 1e-3, 3.0
    for _ in range(60):  # sin(q) / q = span / length
        q = 0.5 * (low + high)
        low, high = (q, high) if np.sin(q) / q > span_m / LENGTH_M else (low, q)
    angle = np.linspace(-q, q, NODES)
    x = np.stack([np.sin(angle) + np.sin(q), 0.0 * angle, np.cos(q) - np.cos(angle)], -1)
    return x * LENGTH_M / (2.0 * q)


def _mujoco_sag(span_m: float) -> Array:
    """Nodes of MuJoCo's cable at rest between two clamps, (N, 3)."""
    edge = LENGTH_M / (NODES - 1)
    model = mujoco.MjModel.from_xml_string(f"""
<mujoco>
  <extension><plugin plugin="mujoco.elasticity.cable"/></extension>
  <option gravity="0 0 -9.81" timestep="0.002" integrator="implicitfast" solver="Newton"/>
  <worldbody>
    <body name="goal" pos="{span_m - edge} 0 0"/>
    <composite type="cable" curve="s" count="{NODES} 1 1" size="{LENGTH_M}" offset="0 0 0"
               initial="none">
      <plugin plugin="mujoco.elasticity.cable">
        <config key="twist" value="{SHEAR_PA}"/><config key="bend" value="{YOUNG_PA}"/>
        <config key="vmax" value="0"/>
      </plugin>
      <joint kind="main" damping="2e-3" armature="1e-6"/>
      <geom type="capsule" size="{RADIUS_M}" density="{DENSITY}" contype="0" conaffinity="0"/>
    </composite>
  </worldbody>
  <equality>
    <weld body1="goal" body2="B_last" relpose="0 0 0 1 0 0 0" solref="0.01 1"
          solimp="0.999 0.9999 0.001"/>
  </equality>
</mujoco>""")
    data = mujoco.MjData(model)
    for _ in range(4000):
        mujoco.mj_step(model, data)
    cable = [i for i in range(model.nbody) if model.body(i).name.startswith("B_")]
    last = cable[-1]
    end = data.xpos[last] + data.xmat[last].reshape(3, 3) @ [edge, 0.0, 0.0]
    assert np.abs(data.qvel).max() < 1e-2  # at rest
    return np.concatenate([data.xpos[cable], end[None]])


@pytest.mark.parametrize("span_m", [0.8])
def test_sag_between_two_clamps(span_m: float) -> None:
    theirs = _mujoco_sag(span_m)
    print(theirs)
