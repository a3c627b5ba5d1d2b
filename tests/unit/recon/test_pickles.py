"""Pickles of numbers are read; programs in a pickle are refused by name and never run."""

import collections
import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from recon.pickles import read_pickle, unpickle

PLAIN: dict[str, Any] = {
    "array": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2)),
    "big-endian": np.arange(3, dtype=">i4"),
    "bool": np.array([[True, False]]),
    "empty": np.zeros((0, 3)),
    "text": np.array(["ab", "c"]),
    "poses": [np.eye(4), np.eye(4)],
    "scalar": np.float32(3.5),
    "zero-dimensional": np.array(2.0),
    "tuple": (1, -2.5, None, True, 1j, "x", b"y", b"", bytearray(b"z"), 10**30),
    "sets": [{1, 2}, frozenset({3})],
    "ordered": collections.OrderedDict(a=1, b=[]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_read_in_every_protocol(protocol: int) -> None:
    found = unpickle(pickle.dumps(PLAIN, protocol=protocol), "test")
    for key, value in PLAIN.items():
        if isinstance(value, np.ndarray):
            assert type(found[key]) is np.ndarray
            assert found[key].dtype == value.dtype, key
            assert found[key].shape == value.shape, key
            assert np.array_equal(found[key], value), key
        elif key != "poses":
            assert found[key] == value, key
            assert key == "ordered" or type(found[key]) is type(value), key
    assert len(found["poses"]) == 2
    assert all(np.array_equal(T, np.eye(4)) for T in found["poses"])


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> Any:
        return self.what


def test_calls_are_refused_by_name_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for function, arguments, name in (
        (os.system, (f"touch {marker}",), "system"),
        (os.mkdir, (str(marker),), "mkdir"),
        (eval, (f"__import__('os').mkdir({str(marker)!r})",), "eval"),
        (Path, ("x",), "pathlib"),
        (np.load, ("x.npy",), "load"),
    ):
        for protocol in (0, 2, 5):
            content = pickle.dumps([1, Calls(function, *arguments)], protocol=protocol)
            with pytest.raises(DataError, match=name) as caught:
                unpickle(content, "evil.pkl")
            assert "evil.pkl" in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"cnumpy.testing\nrundocs\n.", "numpy.testing.rundocs"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"P1\n.", "outside the file"),
        # the stand-ins cannot be changed, nor handed out as data
        (b"cnumpy.core.multiarray\n_reconstruct\n(N}S'_make'\nNstb.", "a state"),
        (b"cnumpy\ndtype\n.", "where data should be"),
        (b"cnumpy\nndarray\n(tR.", "numpy.ndarray, called"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(tR.", "without content"),
        (b"c_codecs\nencode\n(Vabc\nVrot13\ntR.", "codec"),
        (b"c__builtin__\nbytearray\n(I99999999\ntR.", "a bytearray of something"),
        (b"c__builtin__\nbytes\n(I99999999\ntR.", "bytes of something"),
        (b"cnumpy\ndtype\n(VO8\nI0\nI1\ntR.", "dtype 'O8'"),
        (b"cnumpy\ndtype\n(VV64\nI0\nI1\ntR.", "dtype 'V64'"),
    ],
)
def test_handmade_attacks(content: bytes, name: str) -> None:
    with pytest.raises(DataError, match=name):
        unpickle(content, "x")


def test_objects_of_other_libraries_are_named() -> None:
    with pytest.raises(DataError, match="torch"):
        unpickle(pickle.dumps({"x": torch.zeros(3)}), "x")
    with pytest.raises(DataError, match="dtype 'O8'"):
        unpickle(pickle.dumps(np.array([{}, None], dtype=object)), "x")
    with pytest.raises(DataError, match="dtype 'V8'"):
        unpickle(pickle.dumps(np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])), "x")
    with pytest.raises(DataError, match="pathlib"):
        unpickle(pickle.dumps(Path("x")), "x")


def test_a_shape_that_does_not_fit_the_bytes_is_refused() -> None:
    content = pickle.dumps(np.zeros((2, 3)), protocol=2)
    # BININT1 2, BININT1 3, TUPLE2: the shape, and nothing else in these bytes
    assert content.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(DataError, match="with 6 elements"):
        unpickle(content.replace(b"K\x02K\x03\x86", b"K\x63K\x63\x86"), "x")


def test_damaged_pickles_are_data_errors(tmp_path: Path) -> None:
    whole = pickle.dumps(PLAIN)
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(whole), 60):
        with pytest.raises(DataError):
            unpickle(whole[:length], "cut")
    read = 0
    for _ in range(200):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            broken[place] = int(rng.integers(256))
        with contextlib.suppress(DataError):  # anything else fails the test
            unpickle(bytes(broken), "broken")
            read += 1
    assert 0 < read < 200  # some damage changes a number only, some is found
    loop = b"]q\x00h\x00a."  # a list that holds itself
    with pytest.raises(DataError, match="cannot be read"):
        unpickle(loop, "loop")
    with pytest.raises(DataError, match="no such file"):
        read_pickle(tmp_path / "never.pkl")
    (tmp_path / "a.pkl").write_bytes(whole)
    assert read_pickle(tmp_path / "a.pkl")["tuple"] == PLAIN["tuple"]
