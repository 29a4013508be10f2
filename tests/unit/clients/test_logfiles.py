"""Logs stay small while their writers go on."""

import os
from pathlib import Path

import pytest

from scaler.clients import logfiles


def test_a_writer_goes_on_at_the_new_end(tmp_path: Path) -> None:
    path = tmp_path / "web-0.log"
    writer = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        for round_ in range(5):
            os.write(writer, b"%d" % round_ * 100)
            assert logfiles.rotate_if_large(path, max_bytes=50, keep=3)
        os.write(writer, b"end")
    finally:
        os.close(writer)
    assert path.read_bytes() == b"end"
    older = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p != path}
    assert older == {
        "web-0.log.1": b"4" * 50,
        "web-0.log.2": b"3" * 50,
        "web-0.log.3": b"2" * 50,
    }


def test_a_small_file_and_none_at_all_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "web-0.log"
    assert not logfiles.rotate_if_large(path, max_bytes=5, keep=1)
    path.write_bytes(b"12345")
    assert not logfiles.rotate_if_large(path, max_bytes=5, keep=1)
    assert path.read_bytes() == b"12345"


def test_with_nothing_to_keep_it_is_only_cut(tmp_path: Path) -> None:
    path = tmp_path / "web-0.log"
    path.write_bytes(b"123456")
    assert logfiles.rotate_if_large(path, max_bytes=5, keep=0)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("web-0.log", b"")]


def test_it_is_cut_even_when_it_cannot_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "web-0.log"
    path.write_bytes(b"123456")
    (tmp_path / "web-0.log.1").mkdir()  # in the way of the copy
    with pytest.raises(OSError, match=r"web-0\.log\.1"):
        logfiles.rotate_if_large(path, max_bytes=5, keep=1)
    assert path.read_bytes() == b""
