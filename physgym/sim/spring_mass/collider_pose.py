"""Where the box colliders are: checks, and quaternions made fit for interpolation."""

from __future__ import annotations

import torch

from physgym.errors import DataError

__all__ = ["check_collider_pose"]

_UNIT_TOLERANCE = 1e-3  # a quaternion rounded to three digits still says which rotation is meant


def check_collider_pose(
    pose: torch.Tensor | None, worlds: int, frames: int, colliders: int
) -> torch.Tensor | None:
    """Check the poses of a rollout's box colliders.

    Args:
        pose: x y z [m] and quat_wxyz at every frame, shape (B or 1, T, C, 7), or None.
        worlds: B.
        frames: T.
        colliders: C.

    Returns:
        Float32 poses with unit quaternions, each within half a turn's short way of the one before;
        None where there are no colliders.

    Raises:
        DataError: if poses are missing, not asked for, misshapen or not finite, if a quaternion is
            far from unit length, or if a gradient is asked for.
    """
    if (pose is None) != (colliders == 0):
        raise DataError(
            f"collider_pose is {'missing' if pose is None else 'given'}, "
            f"the model has {colliders} colliders",
            where="collider_pose",
            expected="poses exactly where the model has colliders",
            fix="pass shape (B or 1, T, C, 7), or set SpringMassModel.colliders",
        )
    if pose is None:
        return None
    pose = torch.as_tensor(pose)
    if torch.is_grad_enabled() and pose.requires_grad:
        raise DataError(
            "a gradient with respect to the colliders' poses is asked for",
            where="collider_pose.requires_grad",
            expected="poses without a gradient; the box is given, not fitted",
            fix="pass collider_pose.detach(), or use finite differences over worlds of one batch",
        )
    shape = (frames, colliders, 7)
    if pose.dim() != 4 or tuple(pose.shape[1:]) != shape or pose.shape[0] not in (1, worlds):
        raise DataError(
            f"collider_pose has shape {tuple(pose.shape)}",
            where="collider_pose",
            expected=f"(1 or {worlds}, {', '.join(map(str, shape))})",
            fix="one pose per frame and collider: x y z qw qx qy qz",
        )
    pose = pose.detach().double()
    length = pose[..., 3:].norm(dim=-1)
    wrong = ~torch.isfinite(pose).all(dim=-1) | ~((length - 1.0).abs() < _UNIT_TOLERANCE)
    if bool(wrong.any()):
        at = tuple(int(i) for i in wrong.nonzero()[0])
        raise DataError(
            f"pose {pose[at].tolist()}",
            where=f"collider_pose[{', '.join(map(str, at))}]",
            expected="finite numbers and a unit quaternion, w first",
            fix="normalise the quaternion; fill missing poses before simulating",
        )
    quat = pose[..., 3:] / length[..., None]
    # q and -q are one rotation; equal signs along time make the interpolation take the short way.
    turned = (quat[:, 1:] * quat[:, :-1]).sum(-1, keepdim=True) < 0.0
    sign = torch.cumprod(torch.where(turned, -1.0, 1.0).to(quat), dim=1)
    quat = torch.cat([quat[:, :1], quat[:, 1:] * sign], dim=1)
    return torch.cat([pose[..., :3], quat], dim=-1).float()
