"""RigidPath: where a body is over a video if it did not deform, the ground for what it does.

A body that flies moves by its own size between two frames, and by far more than a Gaussian: images
alone do not tell which way. Centres of the masks do, and images tell the rest.
Shapes: T frames, C cameras, G Gaussians.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from physgym.splats.cloud import GaussianCloud, matrix_from_quat
from recon.identify.video_loss import mask_centres
from recon.splats.dynamic_cloud import drawn, quat_product
from recon.splats.frame_loss import FrameLoss
from recon.splats.posed_images import PosedImages
from recon.splats.video import PosedVideo

__all__ = ["RigidPath", "rigid_path"]

_TURN_RATE, _SHIFT_RATE = 0.02, 0.01  # of Adam [rad] and in lengths of the body
_PULL = 1e-3  # of going on as before, over that of a mask's centre: it decides what one view leaves


class RigidPath(NamedTuple):
    """Placements ``turn (X - centre) + centre + shift``.

    Attributes:
        centre: of the body in the first frame [m], shape (3,).
        quat_wxyz: turn since the first frame, unit, shape (T, 4).
        shift: of the centre [m], shape (T, 3).
    """

    centre: torch.Tensor
    quat_wxyz: torch.Tensor
    shift: torch.Tensor

    def place(self, frame: int, points: torch.Tensor) -> torch.Tensor:
        """Points of the first frame, carried.

        Args:
            frame: number in the video.
            points: [m], shape (G, 3).

        Returns:
            [m], shape (G, 3).
        """
        turn = matrix_from_quat(self.quat_wxyz[frame])
        change = turn - torch.eye(3)  # exactly nothing in the first frame
        return points + (points - self.centre) @ change.T + self.shift[frame]


def rigid_path(
    video: PosedVideo, cloud: GaussianCloud, loss: FrameLoss, *, steps: int
) -> RigidPath:
    """Follow a cloud through a video as a rigid body, frame after frame.

    Args:
        video: the video.
        cloud: in its first frame.
        loss: of the video.
        steps: of Adam for every frame; 0 leaves the body where it is.

    Returns:
        The path.
    """
    weight = cloud.opacity / cloud.opacity.sum()
    centre = (weight[:, None] * cloud.mean).sum(dim=0)
    quat, shift = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 3)
    if steps == 0:
        return RigidPath(centre, quat.expand(len(video), 4), shift.expand(len(video), 3))
    extent_m = float((cloud.mean - centre).norm(dim=1).max())
    aim = _Aim(video.frames[0], centre.double().numpy())
    now = cloud.detach()
    for t in range(1, len(video)):
        ago = min(2, t)
        speed = shift[t - 1] - shift[t - ago]  # a frame's, as far as is known
        q0 = _step_on(quat[t - 1], quat[t - ago])
        s0 = torch.from_numpy(aim(video.frames[t], (shift[t - 1] + speed).double().numpy())).float()
        found = _fitted(loss, t, now, RigidPath(centre, q0[None], s0[None]), extent_m, steps)
        quat, shift = torch.cat([quat, found[0][None]]), torch.cat([shift, found[1][None]])
    return RigidPath(centre, quat, shift)


def _step_on(last: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """The turn after the last one at the same rate."""
    back = before * before.new_tensor([1.0, -1.0, -1.0, -1.0])
    return torch.nn.functional.normalize(quat_product(quat_product(last, back), last), dim=-1)


def _fitted(
    loss: FrameLoss, frame: int, cloud: GaussianCloud, start: RigidPath, extent_m: float, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best placement on Adam's way."""
    turn, shift = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam(
        [{"params": [turn], "lr": _TURN_RATE}, {"params": [shift], "lr": _SHIFT_RATE}]
    )
    fall = torch.optim.lr_scheduler.ExponentialLR(adam, 0.1 ** (1.0 / steps))
    best, found = float("inf"), (start.quat_wxyz[0], start.shift[0])
    still = torch.ones(len(cloud), 3)
    for _ in range(steps):
        small = torch.cat([torch.ones(1), 0.5 * turn])
        quat = torch.nn.functional.normalize(quat_product(small, start.quat_wxyz[0]), dim=0)
        moved = start.shift[0] + extent_m * shift
        path = RigidPath(start.centre, quat[None], moved[None])
        about = matrix_from_quat(quat).expand(len(cloud), 3, 3)
        value = loss(frame, drawn(cloud, path.place(0, cloud.mean), about, still))
        if (now := float(value.detach())) < best:
            best, found = now, (quat.detach(), moved.detach())
        adam.zero_grad()
        value.backward()
        adam.step()
        fall.step()
    return found


class _Aim:
    """Where the centre is by the middles of the masks, moved so that frame 0 fits."""

    def __init__(self, views: PosedImages, centre: np.ndarray) -> None:
        seen, whole = mask_centres(views)
        self._centre = centre
        self._offset = {
            camera.name: seen[c].double().numpy() - _way(camera.T_world_cam, centre)
            for c, camera in enumerate(views.cameras)
            if whole[c]
        }

    def __call__(self, views: PosedImages, shift: np.ndarray) -> np.ndarray:
        """Shift of the centre [m]; what no mask tells is left as given."""
        seen, whole = mask_centres(views)
        system, right = _PULL * np.eye(3), _PULL * (self._centre + shift)
        for c, camera in enumerate(views.cameras):
            if not whole[c] or camera.name not in self._offset:
                continue
            flat = seen[c].double().numpy() - self._offset[camera.name]
            ray = camera.T_world_cam[:3, :3] @ np.append(flat, 1.0)
            ray /= np.linalg.norm(ray)
            across = np.eye(3) - np.outer(ray, ray)
            system, right = system + across, right + across @ camera.position
        return np.asarray(np.linalg.solve(system, right) - self._centre)


def _way(T_world_cam: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Direction ``(x / z, y / z)`` to a point in a camera."""
    x, y, z = T_world_cam[:3, :3].T @ (point - T_world_cam[:3, 3])
    return np.array([x / z, y / z])
