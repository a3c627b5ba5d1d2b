"""A learned residual on top of a twin's physics: kept apart, small, and causal.

The physics predicts; a network sees the last second of what it predicted and of how the driven
points moved, and says how far off the physics will be. It never feeds back into the physics, so it
can be left out at any time, and a twin without one is whole.
Shapes: B worlds, T frames, N nodes, K driven points, F features.
"""

from __future__ import annotations

import numpy as np
import torch

from physgym.errors import TwinError
from physgym.twin import Twin

__all__ = ["TAPS_S", "ResidualNet", "apply_residual", "residual_features", "tap_frames"]

# How far back the network looks; a hanging object forgets its past within about a second.
TAPS_S = (0.0, 0.03, 0.08, 0.16, 0.32, 0.64, 1.0)


class ResidualNet(torch.nn.Module):
    """Features of a frame and of some frames before it, to a correction of the free nodes.

    Args:
        feature_count: inputs per frame.
        free_count: free nodes.
        width: hidden units.
    """

    def __init__(self, feature_count: int, free_count: int, width: int = 256) -> None:
        super().__init__()
        self.free_count = free_count
        self.inlet = torch.nn.Linear(feature_count * len(TAPS_S), width)
        self.core = torch.nn.Linear(width, width)
        self.outlet = torch.nn.Linear(width, free_count * 3)
        torch.nn.init.zeros_(self.outlet.weight)
        torch.nn.init.zeros_(self.outlet.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Corrections in units of the object's length.

        Args:
            features: of a frame and the frames before it, shape (..., taps x F).

        Returns:
            Shape (..., free nodes, 3).
        """
        hidden = torch.nn.functional.silu(self.inlet(features))
        hidden = hidden + torch.nn.functional.silu(self.core(hidden))
        return self.outlet(hidden).unflatten(-1, (self.free_count, 3))


def tap_frames(frame_count: int, dt_s: float) -> torch.Tensor:
    """Which frames the network looks at from each frame; before the start there is the start.

    Args:
        frame_count: T.
        dt_s: time between frames [s].

    Returns:
        Frame indices, shape (T, taps).
    """
    back = torch.tensor([round(tap / dt_s) for tap in TAPS_S])
    return (torch.arange(frame_count)[:, None] - back).clamp(min=0)


def residual_features(
    position: torch.Tensor, driven_index: torch.Tensor, dt_s: float, scale_m: float
) -> torch.Tensor:
    """What the network is told of one frame: the predicted shape about its centre and its velocity.

    Nothing depends on where the object is; heights above a table are not told.

    Args:
        position: predicted by the physics [m], shape (B, T, N, 3).
        driven_index: shape (K,).
        dt_s: time between frames [s].
        scale_m: length of the object [m]; makes the features dimensionless.

    Returns:
        Shape (B, T, 6 N).
    """
    centre = position[:, :, driven_index].mean(dim=2, keepdim=True)
    shape = (position - centre) / scale_m
    velocity = torch.zeros_like(position)
    velocity[:, 1:] = (position[:, 1:] - position[:, :-1]) / dt_s
    # Weights that bring shape and velocity to about unit size for objects moved by an arm.
    return torch.cat([shape.flatten(2) * 3.0, velocity.flatten(2) / scale_m * 0.5], dim=-1)


def apply_residual(
    twin: Twin, position: np.ndarray, dt_s: float, *, start_observed: bool = True
) -> np.ndarray:
    """Add a twin's learned residual to what its physics predicted.

    Args:
        twin: a twin with a residual.
        position: predicted by the physics [m], shape (B, T, N, 3).
        dt_s: time between frames [s].
        start_observed: frame 0 was seen, so the correction is zero there and grows from it.

    Returns:
        [m], shape (B, T, N, 3).

    Raises:
        TwinError: if the twin has no residual, or one that this version does not know.
    """
    driven = torch.as_tensor(np.array(twin.driven_index))
    free = np.setdiff1d(np.arange(twin.node_count), twin.driven_index)
    nets = _networks(twin, len(free))
    x = torch.from_numpy(np.ascontiguousarray(position, dtype=np.float32))
    scale_m = float(twin.residual["scale_m"])
    features = residual_features(x, driven, dt_s, scale_m)
    taps = tap_frames(x.shape[1], dt_s)
    total = torch.zeros(*x.shape[:2], len(free), 3)
    with torch.no_grad():
        for net in nets:
            for b in range(len(x)):
                total[b] += net(features[b, taps].flatten(1))
    if start_observed:
        total = total - total[:, :1] * _fade(x.shape[1], dt_s)
    correction = total * (scale_m / len(nets))
    corrected = x.clone()
    corrected[:, :, torch.as_tensor(free)] += correction
    return corrected.numpy()


def _networks(twin: Twin, free_count: int) -> list[ResidualNet]:
    nets = []
    try:
        for k in range(int(twin.residual["members"])):
            weights = {
                key.split("/", 1)[1]: torch.tensor(value)
                for key, value in twin.residual.items()
                if key.startswith(f"{k}/")
            }
            net = ResidualNet(6 * twin.node_count, free_count, len(weights["inlet.bias"]))
            net.load_state_dict(weights)
            nets.append(net)
        if not nets or not float(twin.residual["scale_m"]) > 0:
            raise KeyError("members and scale_m")
    except (KeyError, RuntimeError) as error:
        raise TwinError(
            f"the learned residual cannot be used: {str(error).splitlines()[0]}",
            where=f"twin {twin.name}: residual",
            expected=f"networks of {twin.node_count} nodes, {free_count} of them free",
            fix="leave the residual out, or train it again with this version",
        ) from error
    return nets


def _fade(frame_count: int, dt_s: float) -> torch.Tensor:
    """From 1 at the start to 0 after a fifth of a second, shape (T, 1, 1)."""
    return torch.exp(-torch.arange(frame_count) * dt_s / 0.05)[:, None, None]
