"""A twin comes back as it was saved, or not at all."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from physgym import _twin_folder
from physgym.errors import TwinError
from physgym.frames import T_from_parts, matrix_from_quat_wxyz
from physgym.splats import GaussianCloud, rasterize
from physgym.twin import FORMAT_VERSION, Twin, is_twin_folder


def make_twin(**changes) -> Twin:
    fields = {
        "name": "cable",
        "kind": "rope",
        "dynamics": "rod",
        "method": "phystwin",
        "rest_position": np.linspace([0, 0, 0], [1, 0, 0], 5),
        "driven_index": [0, 4],
        "parameters": {
            "bending_stiffness_nm2": 2e-4,
            "density_kg_m": np.float32(0.02),
            "curvature_1_m": np.arange(6.0).reshape(3, 2),
            "spring_index": np.zeros((0, 2), np.int64),
        },
        "uncertainty": {"bending_stiffness_nm2": 1e-5},
        "residual": {"layer.weight": np.ones((2, 3), np.float32)},
        "provenance": {"source": "DLO1_train/clip_5", "frames": [0, 500]},
        "metrics": {"deform_l1_m": np.float64(0.01)},
        "validity": {"speed_m_s": (0.0, 3.5)},
    }
    return Twin(**{**fields, **changes})


def rewrite(folder: Path, **changes) -> None:
    """Change twin.json as somebody would who also puts its hash right."""
    path = folder / "twin.json"
    manifest = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del manifest[key]
        else:
            manifest[key] = value
    manifest["document_sha256"] = _twin_folder._document_hash(manifest)
    path.write_text(json.dumps(manifest))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return make_twin().save(tmp_path / "cable")


def test_round_trip_keeps_every_field(saved: Path) -> None:
    twin, back = make_twin(), Twin.load(saved)
    assert back.content_hash() == twin.content_hash()
    for group in ("parameters", "uncertainty", "residual"):
        before, after = getattr(twin, group), getattr(back, group)
        assert before.keys() == after.keys()
        for key in before:
            assert np.array_equal(before[key], after[key])
            assert before[key].dtype == after[key].dtype
            assert before[key].shape == after[key].shape
    assert np.array_equal(back.rest_position, twin.rest_position)
    assert np.array_equal(back.driven_index, twin.driven_index)
    for field in ("name", "kind", "dynamics", "method", "provenance", "metrics", "validity"):
        assert getattr(back, field) == getattr(twin, field)
    assert sorted(entry.name for entry in saved.parent.iterdir()) == ["cable"]


def test_arrays_are_read_only_copies() -> None:
    rest = np.zeros((3, 3), np.float32)
    twin = make_twin(rest_position=rest, driven_index=[0])
    rest[0] = 9.0
    assert twin.rest_position[0, 0] == 0.0
    for array in (twin.rest_position, twin.driven_index, twin.parameters["density_kg_m"]):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


def test_content_hash_sees_physics_and_not_notes() -> None:
    twin = make_twin()
    same = twin.replace(name="other", metrics={}, provenance={"date": "today"})
    assert same.content_hash() == twin.content_hash()
    stiffer = {**twin.parameters, "bending_stiffness_nm2": np.array(3e-4)}
    assert twin.replace(parameters=stiffer).content_hash() != twin.content_hash()
    assert twin.replace(residual={}).content_hash() != twin.content_hash()
    assert twin.replace(dynamics="spring_mass").content_hash() != twin.content_hash()


def test_summary_names_parameters_with_their_uncertainty() -> None:
    text = make_twin().summary()
    assert "bending_stiffness_nm2 = 0.0002 +- 1e-05" in text
    assert "learned residual: 6 weights" in text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "gas"}, "kind"),
        ({"dynamics": "fluid"}, "dynamics"),
        ({"name": ""}, "name"),
        ({"rest_position": np.zeros((4, 2))}, "rest_position"),
        ({"rest_position": [[0.0, 0.0, np.nan]]}, "rest_position"),
        ({"rest_position": "line"}, "rest_position"),
        ({"driven_index": [5]}, "driven_index"),
        ({"driven_index": [-1]}, "driven_index"),
        ({"driven_index": [0, 0]}, "driven_index"),
        ({"driven_index": [0.5]}, "driven_index"),
        ({"parameters": {"mass_kg": np.inf}}, "mass_kg"),
        ({"parameters": {"mass_kg": "heavy"}}, "mass_kg"),
        ({"parameters": {"mass_kg": np.array([object()])}}, "mass_kg"),
        ({"parameters": [1.0]}, "parameters"),
        ({"uncertainty": {"unknown": 1.0}}, "unknown"),
        ({"uncertainty": {"bending_stiffness_nm2": [1.0]}}, "bending_stiffness_nm2"),
        ({"uncertainty": {"bending_stiffness_nm2": -1.0}}, "bending_stiffness_nm2"),
        ({"metrics": {"score": float("nan")}}, "metrics"),
        ({"provenance": {"path": Path()}}, "provenance"),
    ],
)
def test_wrong_field_is_refused_by_name(changes, field) -> None:
    with pytest.raises(TwinError) as caught:
        make_twin(**changes)
    assert field in caught.value.where


def test_replace_refuses_unknown_fields() -> None:
    with pytest.raises(TwinError, match="no field 'colour'"):
        make_twin().replace(colour="red")


FILES = (
    "twin.json",
    "geometry.safetensors",
    "parameters.safetensors",
    "uncertainty.safetensors",
    "residual.safetensors",
)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(TwinError) as caught:
        Twin.load(saved)
    assert name in caught.value.where


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_named(saved: Path, name: str) -> None:
    path = saved / name
    content = path.read_bytes()
    for keep in (0, 7, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(TwinError) as caught:
            Twin.load(saved)
        assert name in caught.value.where


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_wherever_it_is(saved: Path, name: str) -> None:
    path = saved / name
    content = path.read_bytes()
    for at in np.linspace(0, len(content) - 1, 25).astype(int):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        path.write_bytes(bytes(damaged))
        if name == "twin.json" and _same_json(content, bytes(damaged)):
            continue  # white space turned into other white space changes nothing
        with pytest.raises(TwinError):
            Twin.load(saved)


def _same_json(first: bytes, second: bytes) -> bool:
    try:
        return bool(json.loads(first) == json.loads(second))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"version": FORMAT_VERSION + 1}, "version"),
        ({"version": True}, "version"),
        ({"version": "1"}, "version"),
        ({"format": "other-twin"}, "format"),
        ({"kind": "gas"}, "kind"),
        ({"method": None}, "method"),
        ({"colour": "red"}, "colour"),
        ({"files": {}}, "files"),
        ({"files": {"../secret": {"bytes": 1, "sha256": ""}}}, "files"),
        ({"content_sha256": "0" * 64}, "content_sha256"),
    ],
)
def test_foreign_manifest_is_refused_by_field(saved: Path, changes, field) -> None:
    rewrite(saved, **changes)
    with pytest.raises(TwinError) as caught:
        Twin.load(saved)
    assert field in caught.value.where


@pytest.mark.parametrize("content", ["", "[]", "null", '{"format": 3}', "[" * 100_000])
def test_foreign_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "twin.json").write_text(content)
    assert not is_twin_folder(tmp_path)
    with pytest.raises(TwinError, match=r"twin\.json"):
        Twin.load(tmp_path)
    with pytest.raises(TwinError, match="not a twin"):
        make_twin().save(tmp_path)
    assert (tmp_path / "twin.json").read_text() == content


def test_missing_folder_and_plain_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="no such twin folder"):
        Twin.load(tmp_path / "nothing")
    (tmp_path / "file").write_text("text")
    with pytest.raises(TwinError, match="no such twin folder"):
        Twin.load(tmp_path / "file")
    with pytest.raises(TwinError, match="not a twin"):
        make_twin().save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "text"


def test_save_replaces_a_twin_and_keeps_what_lies_beside_it(saved: Path) -> None:
    (saved / "report.html").write_text("report")
    (saved / "pictures").mkdir()
    (saved / "pictures" / "a.png").write_bytes(b"png")
    make_twin(name="second", uncertainty={}, residual={}).save(saved)
    back = Twin.load(saved)
    assert back.name == "second"
    assert not back.residual
    assert not (saved / "residual.safetensors").exists()
    assert (saved / "report.html").read_text() == "report"
    assert (saved / "pictures" / "a.png").read_bytes() == b"png"
    assert [entry.name for entry in saved.parent.iterdir()] == ["cable"]


def test_save_falls_back_where_folders_cannot_be_swapped(saved: Path, monkeypatch) -> None:
    monkeypatch.setattr(_twin_folder, "_exchange", lambda first, second: False)
    make_twin(name="second").save(saved)
    assert Twin.load(saved).name == "second"
    assert [entry.name for entry in saved.parent.iterdir()] == ["cable"]


@pytest.mark.parametrize("swap", [True, False])
def test_a_failed_save_leaves_the_old_twin_whole(saved: Path, monkeypatch, swap: bool) -> None:
    def full_disk(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    def no_rename(self: Path, target: Path) -> None:
        if ".tmp-" in self.name:
            raise OSError(13, "Permission denied")
        os.rename(self, target)

    if swap:
        monkeypatch.setattr(_twin_folder, "_write_file", full_disk)
    else:
        monkeypatch.setattr(_twin_folder, "_exchange", lambda first, second: False)
        monkeypatch.setattr(Path, "rename", no_rename)
    with pytest.raises(OSError, match=r"space|denied"):
        make_twin(name="second").save(saved)
    assert Twin.load(saved).name == "cable"
    assert [entry.name for entry in saved.parent.iterdir()] == ["cable"]


def test_a_moved_folder_is_the_same_twin(saved: Path, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "elsewhere")
    assert Twin.load(tmp_path / "elsewhere").content_hash() == make_twin().content_hash()


def make_splats(*, isotropic: bool = False, degree: int = 2) -> GaussianCloud:
    draw = torch.Generator().manual_seed(3)
    count, scales = 40, 1 if isotropic else 3
    spread = torch.tensor([1.0, 0.05, 0.05])
    return GaussianCloud(
        torch.rand(count, 3, generator=draw) * spread,
        -4.0 + 0.5 * torch.randn(count, scales, generator=draw),
        torch.randn(count, 4, generator=draw),
        torch.randn(count, generator=draw),
        0.4 * torch.randn(count, (degree + 1) ** 2, 3, generator=draw),
    )


@pytest.mark.parametrize("isotropic", [True, False])
def test_appearance_comes_back_bit_for_bit_and_is_no_behaviour(tmp_path, isotropic) -> None:
    splats = make_splats(isotropic=isotropic)
    twin = make_twin(splats=splats)
    assert twin.content_hash() == make_twin().content_hash()
    folder = twin.save(tmp_path / "cable")
    listed = json.loads((folder / "twin.json").read_text())["files"]["splats.ply"]
    assert listed["bytes"] == (folder / "splats.ply").stat().st_size
    back = Twin.load(folder).splats
    for name, value in vars(splats).items():
        assert torch.equal(getattr(back, name), value), name
    shape = "isotropic" if isotropic else "anisotropic"
    assert f"appearance: 40 {shape} Gaussians, harmonics of degree 2" in Twin.load(folder).summary()
    twin.replace(splats=None).save(folder)  # and it does not stay behind
    assert Twin.load(folder).splats is None
    assert not (folder / "splats.ply").exists()


def test_appearance_is_a_copy_without_a_graph() -> None:
    splats = make_splats()
    splats.mean.requires_grad_()
    twin = make_twin(splats=splats)
    with torch.no_grad():
        splats.mean.add_(1.0)
    assert not twin.splats.mean.requires_grad
    assert torch.equal(twin.splats.mean, make_splats().mean)


@pytest.mark.parametrize(
    ("splats", "what"),
    [
        ("a picture", "str"),
        (make_splats()[:0], "0 Gaussians"),
        (make_splats().replace(opacity_logit=torch.full((40,), torch.inf)), "opacity_logit"),
    ],
)
def test_wrong_appearance_is_refused(splats, what) -> None:
    with pytest.raises(TwinError, match=what) as caught:
        make_twin(splats=splats)
    assert caught.value.where == "splats"


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damaged_appearance_is_named(tmp_path, damage) -> None:
    path = make_twin(splats=make_splats()).save(tmp_path / "cable") / "splats.ply"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(TwinError, match=r"splats\.ply"):
        Twin.load(tmp_path / "cable")


@pytest.mark.parametrize("content", [b"", b"ply\nmesh of triangles", b"solid"])
def test_foreign_appearance_is_refused(tmp_path, content) -> None:
    folder = make_twin(splats=make_splats()).save(tmp_path / "cable")
    (folder / "splats.ply").write_bytes(content)
    digest = {"bytes": len(content), "sha256": _twin_folder.hashlib.sha256(content).hexdigest()}
    files = json.loads((folder / "twin.json").read_text())["files"]
    rewrite(folder, files={**files, "splats.ply": digest})
    with pytest.raises(TwinError, match=r"splats\.ply"):
        Twin.load(folder)


def test_placed_twin_looks_the_same_to_a_camera_that_moved_along() -> None:
    """Means, axes and harmonics turn: a camera that makes the same move sees the same image."""
    turn = matrix_from_quat_wxyz(np.array([0.5, 0.7, -0.4, 0.3]) / np.sqrt(0.99))
    pose = T_from_parts(turn, [0.3, -2.0, 1.1])
    twin = make_twin(splats=make_splats(degree=3))
    twin = twin.replace(parameters={"bending_stiffness_nm2": 2e-4}, residual={})
    view = torch.eye(4)[None].double()
    view[0, :3, 3] = torch.tensor([0.5, 0.0, -0.8])
    before = rasterize(twin.splats, _small_camera(view[0].numpy()))
    after = rasterize(twin.place(pose).splats, _small_camera(pose @ view[0].numpy()))
    assert float(before.alpha.max()) > 0.5
    # float32 of metres: the image moves by some 1e-5 pixels.
    assert torch.allclose(before.rgb, after.rgb, atol=1e-3)


def _small_camera(T_world_cam: np.ndarray):
    from physgym.camera import PinholeCamera

    K = np.array([[50.0, 0, 31.5], [0, 50.0, 15.5], [0, 0, 1]])
    return PinholeCamera("small", "", 64, 32, K, T_world_cam)
