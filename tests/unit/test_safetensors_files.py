"""The header of a safetensors file says which tensors it holds, and how long it must be."""

from __future__ import annotations

import json
import struct

import pytest

from orchestrator.machine.weights import Damage, is_lfs_pointer, is_whole_safetensors, read_shapes


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_shapes_are_read_and_metadata_is_none_of_them(tmp_path):
    header = {"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    assert read_shapes(write(tmp_path / "x", header, b"\0" * 24)) == {"w": (2, 3)}


def test_a_file_of_no_tensors_is_whole(tmp_path):
    assert read_shapes(write(tmp_path / "x", {})) == {}


def test_what_safetensors_itself_writes_is_whole(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    numpy.save_file({"a": np.zeros((3, 2), dtype=np.float16), "b": np.zeros(4)}, tmp_path / "x.safetensors")
    assert read_shapes(tmp_path / "x.safetensors") == {"a": (3, 2), "b": (4,)}


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length_says_both(tmp_path, change):
    header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    path = write(tmp_path / "x", header, b"\0" * (8 + change))
    found = read_shapes(path)
    size = path.stat().st_size
    assert found == Damage(f"it has {size:,} bytes, and its header says {size - change:,}")
    assert not is_whole_safetensors(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{", b"[]", b"[1]", b'{"w": 1}', b'{"w": {"shape": [1]}}', b'{"w": {"shape": [1], "data_offsets": [0]}}',
        b'{"w": {"shape": "x", "data_offsets": [0, 4]}}', b'{"w": {"data_offsets": [0, 4]}}', b"\xff\xfe",
        b'{"w":' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_damage(tmp_path, header):
    assert isinstance(read_shapes(write(tmp_path / "x", header)), Damage)


@pytest.mark.parametrize("content", [b"", b"\1", b"\0" * 8, b"\xff" * 8, b"\xff" * 100])
def test_a_length_that_cannot_be_is_damage(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert read_shapes(tmp_path / "x") == Damage("it has no safetensors header")


def test_a_file_that_is_not_there_is_damage(tmp_path):
    assert "cannot be read" in read_shapes(tmp_path / "x").why


def test_a_git_lfs_pointer_is_told_by_its_first_line(tmp_path):
    (tmp_path / "x").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert is_lfs_pointer(tmp_path / "x")
    (tmp_path / "x").write_text("version 2")
    assert not is_lfs_pointer(tmp_path / "x")
    assert not is_lfs_pointer(tmp_path / "y")
