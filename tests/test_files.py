import errno
import os
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest

from vitadapter_d2.files import remove_partial_files, replacing, write_image


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    with replacing(path, "w") as file:
        file.write("naïve")
        assert not path.exists()
        (partial,) = path.parent.iterdir()
        assert str(os.getpid()) in partial.name
    assert path.read_bytes() == "naïve".encode()
    assert list(path.parent.iterdir()) == [path]


def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    message = f"No space left on device: '{path}'"
    with pytest.raises(OSError, match=re.escape(message)), replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _write(task):
    path, byte = task
    with replacing(path) as file:
        file.write(byte * 100_000)


def test_processes_that_write_one_file_do_not_mix_their_bytes(tmp_path):
    tasks = [(tmp_path / "file", bytes([k])) for k in range(20)]
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(_write, tasks))
    content = (tmp_path / "file").read_bytes()
    assert len(content) == 100_000 and len(set(content)) == 1


def test_images_are_written_in_rgb_or_grey(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    write_image(tmp_path / "colour.png", image)
    assert np.array_equal(cv2.imread(str(tmp_path / "colour.png"))[:, :, ::-1], image)
    write_image(tmp_path / "grey.png", image[:, :, 0])
    grey = cv2.imread(str(tmp_path / "grey.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(grey, image[:, :, 0])


def test_an_unknown_image_format_is_named(tmp_path):
    with pytest.raises(ValueError, match="no image format '.xyz'"):
        write_image(tmp_path / "image.xyz", np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_file_and_folder_are_flushed_in_the_order_that_survives_a_power_cut(tmp_path, monkeypatch):
    done = []
    flush, rename = os.fsync, Path.replace

    def noted_flush(descriptor):
        done.append("folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "file")
        flush(descriptor)

    def noted_rename(path, target):
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(Path, "replace", noted_rename)
    with replacing(tmp_path / "file"):
        pass
    assert done == ["file", "rename", "folder"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    remove_partial_files(tmp_path / "missing")
    for name in ("model.pth", ".hidden", ".model.pth.123.partial", ".note.9.partial"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.pth", ".hidden"}
