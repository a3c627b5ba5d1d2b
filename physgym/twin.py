"""Twin: a soft object that can be simulated, and the folder it lives in.

A twin folder holds ``twin.json`` (what it is, where it came from, how good it is, and the size and
SHA-256 of every other file), ``geometry.safetensors``, ``parameters.safetensors`` and, where there
are any, ``uncertainty.safetensors``, ``residual.safetensors`` and ``splats.ply``. No file is a
pickle. A folder is written under a temporary name and renamed: a reader sees the old twin or the
new one, never half.
Shapes: N nodes, K driven points.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from physgym import _twin_folder
from physgym._twin_folder import FORMAT, FORMAT_VERSION, is_twin_folder
from physgym._twin_splats import checked_splats, read_splats, splats_file, splats_text
from physgym.errors import TwinError

if TYPE_CHECKING:
    from physgym.registration import Registration
    from physgym.splats import GaussianCloud

__all__ = ["FORMAT_VERSION", "Dynamics", "Kind", "Twin", "is_twin_folder"]

Kind = Literal["rope", "sheet", "volume"]
Dynamics = Literal["mpm", "rod", "spring_mass"]

_TEXT_FIELDS = ("name", "kind", "dynamics", "method")
_NOTE_FIELDS = ("provenance", "metrics", "validity")
_DTYPES = ("float32", "float64", "int32", "int64")


@dataclass(frozen=True, eq=False)
class Twin:
    """A digital asset: rest geometry, dynamics and how far to trust them.

    Arrays are copied and made read-only. Two twins with the same `content_hash` behave the same;
    what they look like is no part of it.

    Attributes:
        name: what people call it.
        kind: ``"rope"``, ``"sheet"`` or ``"volume"``.
        dynamics: which solver moves it, ``"mpm"``, ``"rod"`` or ``"spring_mass"``.
        method: which method identified it, such as ``"phystwin"``.
        rest_position: nodes at rest [m], shape (N, 3), float32.
        driven_index: nodes that a gripper moves, shape (K,), int64.
        parameters: physical parameters (and integer tables such as springs) by SI name, such as
            ``"bending_stiffness_nm2"``; scalars are 0-d.
        uncertainty: one standard deviation of a subset of ``parameters``, same names and shapes.
        residual: weights of a learned residual, apart from the physics (of ``"mpm"``, of the stress
            adapter and the heterogeneity field); empty when there is none.
        provenance: source, its SHA-256, command, version, date; JSON values only.
        metrics: scores with the baselines beside them; JSON values only.
        validity: ranges of strain, speed and the like seen in the data; JSON values only.
        splats: what it looks like where ``rest_position`` is, on the CPU; None when nobody looked.
    """

    name: str
    kind: Kind
    dynamics: Dynamics
    method: str
    rest_position: np.ndarray
    driven_index: np.ndarray
    parameters: dict[str, np.ndarray]
    uncertainty: dict[str, np.ndarray] = field(default_factory=dict)
    residual: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    validity: dict[str, Any] = field(default_factory=dict)
    splats: GaussianCloud | None = None

    def __post_init__(self) -> None:
        _check_texts(self)
        for key, value in _checked_geometry(self.rest_position, self.driven_index).items():
            object.__setattr__(self, key, value)
        for group in ("parameters", "uncertainty", "residual"):
            object.__setattr__(self, group, _checked_arrays(group, getattr(self, group)))
        for key, sigma in self.uncertainty.items():
            _check_uncertainty(key, sigma, self.parameters)
        for notes in _NOTE_FIELDS:
            object.__setattr__(self, notes, _checked_notes(notes, getattr(self, notes)))
        object.__setattr__(self, "splats", checked_splats(self.splats))

    @property
    def node_count(self) -> int:
        """N, the number of nodes."""
        return len(self.rest_position)

    def replace(self, **changes: Any) -> Twin:
        """A new twin with some fields changed, checked as a whole.

        Args:
            changes: fields by name.

        Returns:
            The new twin; this one stays as it is.

        Raises:
            TwinError: if a field does not exist or its value is wrong.
        """
        known = {entry.name for entry in dataclasses.fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise TwinError(
                f"a twin has no field {unknown[0]!r}",
                where="Twin.replace",
                expected="one of " + ", ".join(sorted(known)),
            )
        return dataclasses.replace(self, **changes)

    def place(self, T_world_object: np.ndarray) -> Twin:
        """The twin moved rigidly, to where another recording has the object.

        Directions that are fixed to the object (a rod's clamps, a stress adapter's axes) turn with
        it, and so does its appearance; gravity and ground stay in the world, rest lengths and
        everything else as they are.

        Args:
            T_world_object: maps ``rest_position`` to where it is to be, shape (4, 4).

        Returns:
            The moved twin.

        Raises:
            TwinError: if the matrix is not rigid, or a parameter may be a direction that this
                version does not know how to turn.
        """
        from physgym.registration.twins import place_twin

        return place_twin(self, T_world_object)

    def register(self, cloud: np.ndarray, **options: Any) -> Registration:
        """Find the nodes in the first cloud of another recording of the same object.

        Simulate from ``Registration.position``; springs keep the rest lengths of this twin. Driven
        nodes go along as if they were fixed to the object: put them where the grippers are.

        Args:
            cloud: what cameras saw of the object, of any number of its sides [m], shape (M, 3).
            **options: ``deform`` (True, False or None to find out), ``ground``, ``noise_m`` and
                more (`physgym.registration.register`); ``up`` is against the twin's gravity.

        Returns:
            Where the nodes are, and how far to trust that.

        Raises:
            DataError: if the cloud cannot be used.
            TwinError: if the twin has no springs (of ``"mpm"``: if it is to be bent).
        """
        from physgym.registration.twins import register_twin

        return register_twin(self, cloud, **options)

    def content_hash(self) -> str:
        """SHA-256 over what decides its behaviour: kind, dynamics, method and every array.

        Name, provenance, metrics, validity and appearance do not count, so the same fit run on
        another day has the same hash.

        Returns:
            64 hexadecimal digits.
        """
        digest = hashlib.sha256()
        digest.update(json.dumps([FORMAT, self.kind, self.dynamics, self.method]).encode())
        for group, arrays in _array_groups(self).items():
            for key in sorted(arrays):
                value = arrays[key]
                digest.update(json.dumps([group, key, value.dtype.str, value.shape]).encode())
                digest.update(value.tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """A few lines for people: what it is, its parameters, how good it is.

        Returns:
            Text of several lines without a trailing newline.
        """
        lines = [
            f"{self.name}: {self.kind} twin, {self.dynamics} dynamics, by {self.method}",
            f"  nodes {self.node_count}, driven {len(self.driven_index)}, "
            f"hash {self.content_hash()[:12]}",
        ]
        for key in sorted(self.parameters):
            lines.append(f"  {key} = {_brief(self.parameters[key], self.uncertainty.get(key))}")
        if self.residual:
            count = sum(value.size for value in self.residual.values())
            lines.append(f"  learned residual: {count} weights")
        if self.splats is not None:
            lines.append(f"  appearance: {splats_text(self.splats)}")
        for title, notes in (("metrics", self.metrics), ("source", self.provenance)):
            for key in sorted(notes):
                if isinstance(notes[key], (str, int, float)):
                    lines.append(f"  {title}: {key} = {notes[key]}")
        return "\n".join(lines)

    def save(self, folder: str | Path) -> Path:
        """Write the twin, replacing a twin that is there in one step.

        Files in the old folder that do not belong to the twin (a report, a picture) are kept.

        Args:
            folder: where; its parent is made when missing.

        Returns:
            The folder, absolute.

        Raises:
            TwinError: if something stands there that is not a twin; it is left as it is.
        """
        document = {key: getattr(self, key) for key in _TEXT_FIELDS + _NOTE_FIELDS}
        document["content_sha256"] = self.content_hash()
        blobs = splats_file(self.splats)
        return _twin_folder.write(Path(folder), document, _array_groups(self), blobs)

    @classmethod
    def load(cls, folder: str | Path) -> Twin:
        """Read a twin; every file is checked before anything is built.

        Args:
            folder: a twin folder.

        Returns:
            The twin.

        Raises:
            TwinError: naming the file and field, if the folder is missing, foreign, damaged,
                truncated or of another format version.
        """
        fields = (*_TEXT_FIELDS, *_NOTE_FIELDS, "content_sha256")
        document, groups, blobs = _twin_folder.read(Path(folder), fields)
        content = document.pop("content_sha256")
        geometry = groups.pop("geometry")
        if set(geometry) != {"rest_position", "driven_index"}:
            raise TwinError(
                f"the geometry holds {sorted(geometry)}",
                where=f"{folder}: geometry.safetensors",
                expected="rest_position and driven_index",
                fix=_twin_folder.COPY_AGAIN,
            )
        splats = read_splats(blobs, folder)
        try:
            twin = cls(**document, **geometry, **groups, splats=splats)  # type: ignore[arg-type]
        except TwinError as error:
            raise TwinError(
                error.what,
                where=f"{folder}: {error.where}",
                expected=error.expected,
                fix=error.fix,
            ) from error
        if twin.content_hash() != content:
            raise TwinError(
                "the arrays are not those that twin.json speaks of",
                where=f"{folder}: content_sha256",
                expected=str(content),
                fix=_twin_folder.COPY_AGAIN,
            )
        return twin


def _array_groups(twin: Twin) -> dict[str, dict[str, np.ndarray]]:
    return {
        "geometry": {"rest_position": twin.rest_position, "driven_index": twin.driven_index},
        "parameters": twin.parameters,
        "uncertainty": twin.uncertainty,
        "residual": twin.residual,
    }


def _check_texts(twin: Twin) -> None:
    for key in _TEXT_FIELDS:
        value = getattr(twin, key)
        if not isinstance(value, str) or not value:
            raise TwinError(f"{key} is {value!r}", where=key, expected="a text that is not empty")
    for key, allowed in (("kind", get_args(Kind)), ("dynamics", get_args(Dynamics))):
        if getattr(twin, key) not in allowed:
            raise TwinError(
                f"unknown {key} {getattr(twin, key)!r}",
                where=key,
                expected="one of " + ", ".join(allowed),
                fix="a newer PhysGym may know it",
            )


def _checked_geometry(rest_position: Any, driven_index: Any) -> dict[str, np.ndarray]:
    try:
        rest = np.array(rest_position, dtype=np.float32, order="C")
        given = np.asarray(driven_index)
    except (TypeError, ValueError) as error:
        raise TwinError(
            f"not arrays of numbers: {error}",
            where="rest_position or driven_index",
            expected="(N, 3) metres and (K,) integers",
        ) from error
    if rest.ndim != 2 or rest.shape[1:] != (3,) or len(rest) == 0:
        raise TwinError(f"shape {rest.shape}", where="rest_position", expected="(N, 3), N > 0")
    if not np.isfinite(rest).all():
        node = int(np.argwhere(~np.isfinite(rest))[0, 0])
        raise TwinError("not finite", where=f"rest_position, node {node}", expected="metres")
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise TwinError(
            f"{given.dtype} of shape {given.shape}",
            where="driven_index",
            expected="integers, shape (K,)",
        )
    index = np.array(given, dtype=np.int64, order="C")
    if index.size and (index.min() < 0 or index.max() >= len(rest)):
        raise TwinError(
            f"indices from {index.min()} to {index.max()}",
            where="driven_index",
            expected=f"0 to {len(rest) - 1}",
        )
    if len(np.unique(index)) != len(index):
        raise TwinError("an index stands twice", where="driven_index", expected="each node once")
    rest.setflags(write=False)
    index.setflags(write=False)
    return {"rest_position": rest, "driven_index": index}


def _checked_arrays(group: str, arrays: Any) -> dict[str, np.ndarray]:
    if not isinstance(arrays, Mapping):
        raise TwinError(f"{type(arrays).__name__}", where=group, expected="arrays by name")
    checked: dict[str, np.ndarray] = {}
    for key in arrays:
        where = f"{group}[{key!r}]"
        if not isinstance(key, str) or not key:
            raise TwinError(f"name {key!r}", where=group, expected="a text that is not empty")
        try:
            value = np.array(arrays[key], order="C")
        except ValueError as error:
            raise TwinError(str(error), where=where, expected="an even array") from error
        if value.dtype.name not in _DTYPES:
            raise TwinError(f"dtype {value.dtype}", where=where, expected=" or ".join(_DTYPES))
        if not np.isfinite(value).all():
            raise TwinError("not finite", where=where, expected="finite numbers")
        value.setflags(write=False)
        checked[key] = value
    return checked


def _check_uncertainty(key: str, sigma: np.ndarray, parameters: dict[str, np.ndarray]) -> None:
    where = f"uncertainty[{key!r}]"
    if key not in parameters:
        raise TwinError(
            "no parameter has this name",
            where=where,
            expected="one of " + ", ".join(sorted(parameters)),
        )
    if sigma.shape != parameters[key].shape:
        raise TwinError(f"shape {sigma.shape}", where=where, expected=str(parameters[key].shape))
    if (sigma < 0).any():
        raise TwinError("a negative standard deviation", where=where, expected="zero or more")


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _checked_notes(group: str, notes: Any) -> dict[str, Any]:
    if not isinstance(notes, Mapping) or not all(isinstance(key, str) for key in notes):
        raise TwinError(f"{type(notes).__name__}", where=group, expected="values by text names")
    try:
        copied: dict[str, Any] = json.loads(
            json.dumps(dict(notes), default=_plain, allow_nan=False)
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise TwinError(
            str(error), where=group, expected="JSON values with finite numbers"
        ) from error
    return copied


def _brief(value: np.ndarray, sigma: np.ndarray | None) -> str:
    if value.ndim == 0:
        return f"{value.item():.4g}" + (f" +- {sigma.item():.2g}" if sigma is not None else "")
    if value.size == 0:
        return f"shape {value.shape}"
    return f"{value.min():.4g} .. {value.max():.4g}, shape {value.shape}"
