"""3DGS PLY: the bytes of the format, round trips to the bit, and what foreign files do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from physgym.splats import GaussianCloud
from physgym.splats.ply import load_ply, save_ply


def make(count: int = 7, basis: int = 16, scales: int = 3) -> GaussianCloud:
    draw = torch.Generator().manual_seed(1)
    shapes = ((count, 3), (count, scales), (count, 4), (count,), (count, basis, 3))
    return GaussianCloud(*(torch.randn(shape, generator=draw) for shape in shapes))


def same(a: GaussianCloud, b: GaussianCloud) -> bool:
    return all(torch.equal(getattr(a, name), value) for name, value in vars(b).items())


def write(path: Path, columns: dict[str, np.ndarray], kinds: dict[str, str] | None = None) -> None:
    """A PLY of another program: the given columns in the given order."""
    words = {"<f4": "float", "<f8": "double", "u1": "uchar", "<i4": "int"}
    kinds = {name: (kinds or {}).get(name, "<f4") for name in columns}
    count = len(next(iter(columns.values())))
    table = np.zeros(count, list(kinds.items()))
    for name, values in columns.items():
        table[name] = values
    lines = ["ply", "format binary_little_endian 1.0", "comment by hand", f"element vertex {count}"]
    lines += [f"property {words[kind]} {name}" for name, kind in kinds.items()]
    path.write_bytes("\n".join([*lines, "end_header\n"]).encode() + table.tobytes())


def columns_of(cloud: GaussianCloud) -> dict[str, np.ndarray]:
    """What the format says, spelled out: harmonics beyond the first channel by channel."""
    made = {n: cloud.mean[:, k].numpy() for k, n in enumerate("xyz")}
    made |= {f"f_dc_{c}": cloud.sh[:, 0, c].numpy() for c in range(3)}
    per_channel = cloud.sh.shape[1] - 1
    for c in range(3):
        for k in range(per_channel):
            made[f"f_rest_{c * per_channel + k}"] = cloud.sh[:, 1 + k, c].numpy()
    made["opacity"] = cloud.opacity_logit.numpy()
    scales = cloud.log_scale.shape[1]
    made |= {f"scale_{k}": cloud.log_scale[:, k].numpy() for k in range(scales)}
    return made | {f"rot_{k}": cloud.quat_wxyz[:, k].numpy() for k in range(4)}


@pytest.mark.parametrize("basis", [1, 4, 9, 16])
def test_round_trip_to_the_bit(tmp_path, basis):
    cloud = make(basis=basis)
    save_ply(tmp_path / "a.ply", cloud)
    again = load_ply(tmp_path / "a.ply")
    assert same(cloud, again)
    save_ply(tmp_path / "b.ply", again)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.ply", "b.ply"]  # nothing left over


def test_the_header_is_the_one_that_viewers_know(tmp_path):
    save_ply(tmp_path / "a.ply", make(basis=4))
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")[0].decode().splitlines()
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{k}" for k in range(9)]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert header[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 7"]
    assert header[3:] == [f"property float {name}" for name in names]


def test_a_hand_made_file_in_another_order_and_with_doubles(tmp_path):
    cloud = make(basis=9)
    columns = columns_of(cloud)
    turned = dict(reversed(columns.items()))
    write(tmp_path / "a.ply", turned, {"x": "<f8", "opacity": "<f8"})
    assert same(load_ply(tmp_path / "a.ply"), cloud)


def test_gsplats_own_exporter_is_read(tmp_path):
    gsplat = pytest.importorskip("gsplat")
    cloud = make(basis=16)
    gsplat.export_splats(
        cloud.mean, cloud.log_scale, cloud.quat_wxyz, cloud.opacity_logit, cloud.sh[:, :1],
        cloud.sh[:, 1:], format="ply", save_to=str(tmp_path / "a.ply"),
    )  # fmt: skip
    assert same(load_ply(tmp_path / "a.ply"), cloud)


def test_isotropic_clouds(tmp_path):
    ball = make(scales=1)
    save_ply(tmp_path / "a.ply", ball)
    assert load_ply(tmp_path / "a.ply").log_scale.shape == (7, 3)
    assert same(load_ply(tmp_path / "a.ply", isotropic=True), ball)
    columns = columns_of(ball)
    write(tmp_path / "b.ply", columns)  # scale_0 alone
    assert same(load_ply(tmp_path / "b.ply"), ball)
    bare = {("scale" if n == "scale_0" else n): v for n, v in columns.items() if n[:3] != "rot"}
    write(tmp_path / "c.ply", bare)
    found = load_ply(tmp_path / "c.ply")
    assert torch.equal(found.log_scale, ball.log_scale)
    assert torch.equal(found.quat_wxyz, torch.tensor([[1.0, 0, 0, 0]]).expand(7, 4))
    save_ply(tmp_path / "d.ply", make())
    with pytest.raises(DataError, match="different scales"):
        load_ply(tmp_path / "d.ply", isotropic=True)


def test_an_empty_cloud(tmp_path):
    save_ply(tmp_path / "a.ply", make(count=0))
    assert len(load_ply(tmp_path / "a.ply")) == 0


def test_elements_before_and_after_the_vertices(tmp_path):
    cloud = make(basis=1)
    save_ply(tmp_path / "a.ply", cloud)
    content = (tmp_path / "a.ply").read_bytes()
    head, body = content.split(b"end_header\n")
    first, rest = head.split(b"element vertex")
    extra = b"element camera 2\nproperty int id\nproperty uchar kind\n"
    after = b"element face 1\nproperty list uchar int vertex_indices\n"
    made = first + extra + b"element vertex" + rest + after + b"end_header\n" + bytes(10) + body
    (tmp_path / "b.ply").write_bytes(made + bytes(13))
    assert same(load_ply(tmp_path / "b.ply"), cloud)


def test_unknown_properties_are_named_and_left_out(tmp_path):
    cloud = make(basis=1)
    label = np.arange(7)
    write(tmp_path / "a.ply", columns_of(cloud) | {"label": label}, {"label": "<i4"})
    with pytest.warns(UserWarning, match="label"):
        assert same(load_ply(tmp_path / "a.ply"), cloud)


@pytest.mark.parametrize("gone", ["x", "f_dc_1", "f_rest_4", "opacity", "scale_2", "rot_3"])
def test_missing_properties_are_named(tmp_path, gone):
    columns = columns_of(make(basis=4))
    del columns[gone]
    write(tmp_path / "a.ply", columns)
    with pytest.raises(DataError, match=r"f_rest_\*" if gone == "f_rest_4" else gone):
        load_ply(tmp_path / "a.ply")


def test_numbers_that_are_not_finite(tmp_path):
    columns = columns_of(make(basis=1))
    columns["y"] = columns["y"].copy()
    columns["y"][2] = np.nan
    big = columns["opacity"].astype(np.float64)
    big[5] = 1e300  # beyond float32
    write(tmp_path / "a.ply", columns | {"opacity": big}, {"opacity": "<f8"})
    with pytest.raises(DataError, match=r"2 Gaussians.*first Gaussian 2"):
        load_ply(tmp_path / "a.ply")
    with pytest.warns(UserWarning, match="2 Gaussians left out"):
        kept = load_ply(tmp_path / "a.ply", drop_not_finite=True)
    assert torch.equal(kept.mean, make(basis=1).mean[[0, 1, 3, 4, 6]])
    cloud = make()
    cloud.mean[4, 0] = torch.inf
    with pytest.raises(DataError, match="first Gaussian 4"):
        save_ply(tmp_path / "b.ply", cloud)
    assert not (tmp_path / "b.ply").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c[:-1], "cut off after 6 of 7"),
        (lambda c: c.replace(b"binary_little_endian", b"ascii"), "format ascii"),
        (lambda c: c.replace(b"element vertex", b"element point"), "no element vertex"),
        (lambda c: c.replace(b"ply\n", b"obj\n"), "no PLY header"),
        (lambda c: c.replace(b"end_header", b"end_of_it"), "no PLY header"),
        (lambda c: c.replace(b"property float opacity", b"property list opacity"), "header line"),
        (lambda c: c.replace(b"vertex 7", b"vertex seven"), "header line"),
        (lambda c: c.replace(b"float nx", b"float ny"), "twice"),
        (lambda c: b"", "no PLY header"),
        (lambda c: c.replace(b"vertex 7", b"vertex 1" + b"0" * 5000), "header line"),
        (lambda c: c.replace(b"vertex 7", b"vertex \xb2"), "header line"),  # a digit to isdigit()
        (lambda c: c.replace(b"vertex 7", b"vertex 99999999999999"), "after 7 of 99999999999999"),
        (
            lambda c: c.replace(b"el", b"element far 9999\nproperty int q\nel", 1),
            "cut off after 0 of 7",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, words):
    save_ply(tmp_path / "a.ply", make())
    path = tmp_path / "b.ply"
    path.write_bytes(change((tmp_path / "a.ply").read_bytes()))
    with pytest.raises(DataError, match=words):
        load_ply(path)


def test_what_comments_say_plays_no_part(tmp_path):
    cloud = make()
    save_ply(tmp_path / "a.ply", cloud)
    content = (tmp_path / "a.ply").read_bytes()
    # The second byte of this letter in UTF-8 ends a line for str.splitlines().
    told = "comment Ångström, far from its end_header\nelement".encode()
    (tmp_path / "b.ply").write_bytes(content.replace(b"element", told, 1))
    assert same(load_ply(tmp_path / "b.ply"), cloud)


def test_only_what_is_there_is_named_as_there(tmp_path):
    write(tmp_path / "a.ply", {name: np.zeros(3) for name in "xyz"})  # a cloud of points
    with pytest.raises(DataError, match=r"properties x, y, z without \['f_dc_0'"):
        load_ply(tmp_path / "a.ply")


def test_a_rotation_of_zeros_is_refused_where_there_are_axes(tmp_path):
    cloud = make()
    cloud.quat_wxyz[3] = 0.0
    save_ply(tmp_path / "a.ply", cloud)
    with pytest.raises(DataError, match="quaternion of zeros, first Gaussian 3"):
        load_ply(tmp_path / "a.ply")
    ball = make(scales=1)
    columns = columns_of(ball) | {f"rot_{k}": np.zeros(7) for k in range(4)}
    write(tmp_path / "b.ply", columns)
    found = load_ply(tmp_path / "b.ply")
    assert torch.equal(found.mean, ball.mean)
    assert found.quat_wxyz.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 7


def test_a_file_that_cannot_be_read(tmp_path):
    for place, why in ((tmp_path / "none.ply", "No such file"), (tmp_path, "directory")):
        with pytest.raises(DataError, match=why):
            load_ply(place)
