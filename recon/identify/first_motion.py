"""How an object already moves in the first frame, from its tracks: a rigid velocity and spin.

A recording may begin with the object in flight, or be cut in the middle of a motion. The first
frames tell how fast it was, by least squares over all tracked nodes (`find_first_motion`):

    x_i(t) = c + s + v t + a t^2 / 2 + R(r + w t + b t^2 / 2) (X_i - c)

c is the mean of the nodes X_i, v and w are velocity and spin, s and r the common error of the first
frame. What nothing touches flies: a is gravity and b is zero; of anything else they are found too.
`recon.identify.start_velocity` asks for a volume in free flight, and refuses everything else.
Shapes: T ticks, N nodes, F powers of time, Q candidates.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from recon.identify.clip import Clip
from recon.identify.handling import touches

__all__ = ["FirstMotion", "find_first_motion", "moving_clip"]

# Longer, and a swing is no parabola any more; shorter, and noise decides.
_WINDOW_S = 0.2
_FLIGHT_TICKS = 3  # two tell a velocity, the third whether gravity alone acts
_CARRIED_TICKS = 5  # three powers of time and two to spare
_FEWEST_POINTS = 4
# Up to this, tracks wander on an object that is still, as in `recon.identify.clip`.
_STILL_M = 0.004
# What cameras get wrong about a whole object from frame to frame, however many points it has.
_COMMON_M = 1e-3
# Points that err by themselves, as `recon.identify.episode_problem` counts them.
_INDEPENDENT = 30
# A frame that is further off than so many standard deviations and this share of the object's size
# (what calibration does to a parabola) does not follow the fit.
_FAR_SIGMA, _FAR_SIZE = 3.0, 0.004
# Of three normal numbers the sum of squares is above 20 twice in ten thousand.
_SIGNIFICANT = 20.0
# A motion must explain so many more squares of standard deviations than an object that is still.
_BETTER = 16.0
# Something that flies is so far above the ground; noise lifts the nodes of what stands there.
_CLEAR_M = 0.005
# Normal priors by power of time, [m, m/s, m/s^2] and [rad, rad/s, rad/s^2]: the first frame is
# about right; the rest is wide, for a straight rope does not tell its turn about itself.
_SHIFT_SIGMA, _TURN_SIGMA = (2e-3, 100.0, 30.0), (0.05, 20.0, 100.0)
_STEP = 0.2


class _Fit(NamedTuple):
    """A rigid motion through the first frames.

    Attributes:
        found: shift and turn by power of time, shape (F, 6).
        covariance: of the second of them, which is velocity and spin, shape (6, 6).
        misfit_m: how far the object as a whole, moved and turned, is off in each frame: root mean
            square over its points, shape (T,).
        sigma_m: standard deviation of that.
    """

    found: np.ndarray
    covariance: np.ndarray
    misfit_m: np.ndarray
    sigma_m: float


class _Seen(NamedTuple):
    """Frames that show enough of the object, from the first.

    Attributes:
        rest: nodes from their mean [m], shape (N, 3).
        moved: how far from its place in the first frame each was seen [m], shape (T, N, 3); 0 where
            not known.
        known: which were seen, shape (T, N).
        time_s: shape (T,).
    """

    rest: np.ndarray
    moved: np.ndarray
    known: np.ndarray
    time_s: np.ndarray

    def until(self, stop: int) -> _Seen:
        """The first frames."""
        return _Seen(self.rest, self.moved[:stop], self.known[:stop], self.time_s[:stop])


@dataclass(frozen=True, eq=False)
class FirstMotion:
    """How an object moves in the first frame, and how well that is known.

    Attributes:
        velocity_m_per_s: of the mean of its nodes, shape (3,).
        spin_rad_per_s: about that, world axes, shape (3,).
        velocity_sigma: one standard deviation [m/s], shape (3,).
        spin_sigma: likewise [rad/s], shape (3,).
        flying: nothing holds, pushes or carries it.
    """

    velocity_m_per_s: np.ndarray
    spin_rad_per_s: np.ndarray
    velocity_sigma: np.ndarray
    spin_sigma: np.ndarray
    flying: bool

    def __str__(self) -> str:
        v, w = np.linalg.norm(self.velocity_m_per_s), np.linalg.norm(self.spin_rad_per_s)
        return f"{v:.3g} m/s and {w:.3g} rad/s"

    @property
    def coordinates(self) -> dict[str, tuple[float, float, float]]:
        """Search coordinates, as those of `recon.identify.episode_coordinates`.

        They are how many standard deviations velocity and spin are from what was found here.
        """
        names = [f"start_{what}_{axis}" for what in ("velocity", "spin") for axis in "xyz"]
        return dict.fromkeys(names, (0.0, 1.0, _STEP))

    def scalars(self, column: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Velocity and spin of candidates by their names in a twin; differentiable.

        Args:
            column: search coordinates by name, shape (Q,) each.

        Returns:
            ``start_velocity_m_per_s`` and ``start_spin_rad_per_s``, shape (Q, 3).
        """
        made = {}
        for name, what, mean, sigma in (
            ("start_velocity_m_per_s", "velocity", self.velocity_m_per_s, self.velocity_sigma),
            ("start_spin_rad_per_s", "spin", self.spin_rad_per_s, self.spin_sigma),
        ):
            off = torch.stack([column[f"start_{what}_{axis}"] for axis in "xyz"], dim=1)
            made[name] = torch.as_tensor(mean) + torch.as_tensor(sigma) * off
        return made


def find_first_motion(clip: Clip) -> FirstMotion | None:
    """Velocity and spin in the first frame.

    Args:
        clip: an episode.

    Returns:
        The motion; None where the object is still, and where its tracks do not tell: fewer than
        three frames show it before something touches it, or nothing rigid explains them, or what
        was found may be noise.
    """
    if clip.first > 0:  # seen at rest until something touches it
        return None
    seen = _seen(clip)
    if len(seen.time_s) < _FLIGHT_TICKS or _is_still(seen):
        return None
    fit = _flight(clip, seen)
    flying = fit is not None
    if fit is None:
        fit = _carried(clip, seen)
    if fit is None:
        return None
    rate, sigma = _significant(fit), np.sqrt(np.diag(fit.covariance))
    if not rate.any():
        return None
    return FirstMotion(rate[:3], rate[3:], sigma[:3], sigma[3:], flying)


def moving_clip(clip: Clip) -> Clip:
    """What can be learned from where the object moves at the start.

    Jaws that close later find it elsewhere than in the first frame, so learning ends there.

    Args:
        clip: the episode.

    Returns:
        The clip up to the first gripper that closes after the start.

    Raises:
        DataError: if that leaves too little.
    """
    starts = [grip.start for grip in clip.grips] + [pusher.start for pusher in clip.pushers]
    stop = min([clip.stop, *(start for start in starts if start > 0)])
    if stop < 5:
        raise DataError(
            f"the object moves at the start, and a gripper closes in frame {stop}",
            where=f"{clip.name}: clip",
            expected="at least five frames before a gripper closes on what moves",
            fix="begin the recording earlier, or where the object is still or held",
        )
    return dataclasses.replace(
        clip,
        grips=tuple(grip for grip in clip.grips if grip.start == 0),
        pushers=tuple(pusher for pusher in clip.pushers if pusher.start == 0),
        stop=stop,
    )


def _seen(clip: Clip) -> _Seen:
    """The frames of the window before anything new touches the object."""
    starts = [grip.start for grip in clip.grips] + touches(list(clip.pushers), clip.rest_position)
    window = max(round(_WINDOW_S / clip.dt_s) + 1, _CARRIED_TICKS)
    stop = min([window, clip.stop, *(start for start in starts if start > 0)])
    position = np.asarray(clip.position[:stop], np.float64)
    known = np.asarray(np.isfinite(position).all(axis=-1))
    shown = np.flatnonzero(known.sum(axis=1) >= _FEWEST_POINTS)
    moved = np.where(known[..., None], position - clip.rest_position, 0.0)
    rest = clip.rest_position - clip.rest_position.mean(axis=0)
    return _Seen(rest, moved[shown], known[shown], clip.dt_s * shown)


def _is_still(seen: _Seen) -> bool:
    far = np.linalg.norm(seen.moved, axis=-1)
    return all(float(np.median(d[k])) < _STILL_M for d, k in zip(far[1:], seen.known[1:]))


def _flight(clip: Clip, seen: _Seen) -> _Fit | None:
    """The longest run of first frames that is a free flight; None where there is none."""
    held = any(grip.start == 0 for grip in clip.grips)
    if held or 0 in touches(list(clip.pushers), clip.rest_position):
        return None
    height = _height(clip, clip.rest_position)
    if height < _CLEAR_M:
        return None
    best, frames, landed = None, 0, False
    for stop in range(_FLIGHT_TICKS, len(seen.time_s) + 1):
        fit = _fit(seen.until(stop), (0, 1), clip.gravity)
        if not _follows(fit, seen):
            break
        best, frames = fit, stop
        landed = _height(clip, _placed(clip, seen, fit, stop - 1)) < -fit.sigma_m
        if landed:
            break
    if best is None:
        return None
    part = seen.until(frames)
    # Three frames of something still are nearly a parabola, so a fourth must be one, unless they
    # are so far apart that gravity shows in them.
    short = not (frames > _FLIGHT_TICKS or landed or frames == len(seen.time_s))
    if short and not _beats(best, _fit(part, (0, 1), np.zeros(3))):
        return None
    return best if _beats(best, _fit(part, (0,), np.zeros(3))) else None


def _carried(clip: Clip, seen: _Seen) -> _Fit | None:
    """The longest run of first frames with steady accelerations, whatever they are.

    None where an object that is still until some frame, and is then taken along, would be as good:
    a parabola through those frames has a velocity too.
    """
    for stop in range(len(seen.time_s), _CARRIED_TICKS - 1, -1):
        part = seen.until(stop)
        fit = _fit(part, (0, 1, 2), np.zeros(3))
        if not _follows(fit, seen):
            continue
        for begin_s in part.time_s[:-1]:
            if not _beats(fit, _fit(part, (0, 2), np.zeros(3), begin_s=begin_s)):
                return None
        return fit
    return None


def _beats(fit: _Fit, still: _Fit) -> bool:
    gain = np.square(still.misfit_m).sum() - np.square(fit.misfit_m).sum()
    return float(gain) > _BETTER * fit.sigma_m**2


def _significant(fit: _Fit) -> np.ndarray:
    """Velocity and spin, shape (6,); one that may be noise is zero, and the other as it then is."""
    rate, covariance = fit.found[1], fit.covariance
    parts = (slice(0, 3), slice(3, 6))
    excess = [np.linalg.solve(covariance[part, part], rate[part]) for part in parts]
    noise = [float(rate[part] @ one) < _SIGNIFICANT for part, one in zip(parts, excess)]
    if all(noise):
        return np.zeros(6)
    found = rate.copy()
    for part, one, zero in zip(parts, excess, noise):
        if zero:
            found -= covariance[:, part] @ one
            found[part] = 0.0
    return found


def _follows(fit: _Fit, seen: _Seen) -> bool:
    size = float(np.ptp(seen.rest, axis=0).max())
    return float(fit.misfit_m.max()) < _FAR_SIGMA * fit.sigma_m + _FAR_SIZE * size


def _height(clip: Clip, nodes: np.ndarray) -> float:
    """Of the lowest node above the ground [m]; infinite where there is none."""
    if clip.ground is None:
        return np.inf
    return float((nodes @ np.array(clip.ground.normal)).min()) - clip.ground.offset_m


def _placed(clip: Clip, seen: _Seen, fit: _Fit, frame: int) -> np.ndarray:
    """All nodes where a flight has them in a frame [m], shape (N, 3)."""
    shift, turn = np.split(fit.found[0] + seen.time_s[frame] * fit.found[1], 2)
    fall = 0.5 * seen.time_s[frame] ** 2 * clip.gravity
    middle = clip.rest_position.mean(axis=0)
    return np.asarray(Rotation.from_rotvec(turn).apply(seen.rest) + middle + shift + fall)


def _fit(seen: _Seen, which: tuple[int, ...], gravity: np.ndarray, *, begin_s: float = 0.0) -> _Fit:
    """Least squares with Huber's weights by Gauss-Newton; every frame counts as one observation.

    The nodes of a frame err together (`_COMMON_M`), and by themselves as far as they scatter.
    ``which`` are powers of time since ``begin_s``, before which nothing moves.
    """
    count, time_s = len(which), (seen.time_s - begin_s).clip(0.0)
    powers = np.stack([(time_s**0, time_s, 0.5 * time_s**2)[power] for power in which], axis=1)
    prior = _prior_precision(which)
    fall = 0.5 * seen.time_s[:, None] ** 2 * gravity
    found, sigma_m, knee_m = np.zeros((count, 6)), _COMMON_M, np.inf
    several = np.minimum(seen.known.sum(axis=1), _INDEPENDENT).mean()
    for _ in range(8):
        shift, turn = np.split(powers @ found, 2, axis=1)
        arm = np.stack([Rotation.from_rotvec(one).apply(seen.rest) for one in turn])
        off = seen.moved + seen.rest - arm - (shift + fall)[:, None]
        weight = seen.known * np.minimum(1.0, knee_m / np.linalg.norm(off, axis=-1).clip(1e-9))
        weight /= weight.sum(axis=1, keepdims=True)
        noise_m = float(np.median(np.abs(off[seen.known])) / 0.6745)
        # To first order in the turn; where nothing is off, that is exact.
        slope = np.concatenate([np.broadcast_to(np.eye(3), (*arm.shape, 3)), _cross(arm)], axis=-1)
        square = np.einsum("tn,tnki,tnkj->tij", weight, slope, slope) / sigma_m**2
        pull = np.einsum("tn,tnki,tnk->ti", weight, slope, off) / sigma_m**2
        hessian = np.einsum("tf,tg,tij->figj", powers, powers, square).reshape(6 * count, -1)
        hessian += np.diag(prior)
        gradient = np.einsum("tf,ti->fi", powers, pull).ravel() - prior * found.ravel()
        found = found + np.linalg.solve(hessian, gradient).reshape(count, 6)
        sigma_m = float(np.hypot(_COMMON_M, noise_m / np.sqrt(several)))
        knee_m = 3.0 * max(noise_m, _COMMON_M)
    # What a rigid motion of its own would take off a frame.
    rigid = np.einsum("ti,tij,tj->t", pull, np.linalg.pinv(square, rcond=1e-6), pull)
    misfit = sigma_m * np.sqrt(rigid.clip(0.0))
    covariance = np.linalg.inv(hessian)[6:12, 6:12]
    return _Fit(found, covariance, misfit, sigma_m)


def _prior_precision(which: tuple[int, ...]) -> np.ndarray:
    """Of shift and turn by power of time, shape (6 F,)."""
    sigma = np.array([[_SHIFT_SIGMA[power]] * 3 + [_TURN_SIGMA[power]] * 3 for power in which])
    return np.asarray(1.0 / np.square(sigma).ravel())


def _cross(arm: np.ndarray) -> np.ndarray:
    """Matrices that turn a small rotation into the displacement of a point, shape (..., 3, 3)."""
    x, y, z = np.moveaxis(arm, -1, 0)
    none = np.zeros_like(x)
    rows = [[none, z, -y], [-z, none, x], [y, -x, none]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
