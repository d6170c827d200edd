"""Containers of checkpoints: each is read, nothing in them is run."""

import argparse
import http.server
import os
import pathlib
import pickle
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.torch
import torch
from iopath.common import file_io
from torch import nn

from vitadapter_d2.checkpoint.fetching import DownloadError
from vitadapter_d2.checkpoint.reading import CheckpointError, read_checkpoint, read_file

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def check(read, expected=None):
    expected = WEIGHTS if expected is None else expected
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pth"


def save(path, content, **options):
    torch.save(content, path, **options)
    return str(path)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "model": state},
        lambda state: {"model": {"never": "taken"}, "state_dict": state},
        lambda state: {"module": state},
        lambda state: {"state_dict": {f"module.{name}": part for name, part in state.items()}},
        lambda state: {"teacher": {f"backbone.{name}": part for name, part in state.items()}},
    ],
)
def test_formats_and_nesting(path, nest, new_format):
    check(read_checkpoint(save(path, nest(WEIGHTS), _use_new_zipfile_serialization=new_format)))


@pytest.mark.parametrize("wrappers", ["module._orig_mod.", "_orig_mod.module."])
def test_names_of_wrappers_go_in_any_order(path, wrappers):
    check(read_checkpoint(save(path, {f"{wrappers}{name}": WEIGHTS[name] for name in WEIGHTS})))


def test_a_dictionary_that_holds_itself_is_read(path):
    content = dict(WEIGHTS)
    content["model"] = content
    check(read_checkpoint(save(path, content)))


def test_of_moby_the_encoder_is_kept(path):
    encoder = {"patch_embed.proj.weight": torch.ones(1), "norm.bias": torch.zeros(1)}
    state = {f"encoder.{name}": part for name, part in encoder.items()}
    check(read_checkpoint(save(path, {"model": state | {"encoder_k.x": torch.ones(2)}})), encoder)


def test_an_ordinary_archive_holds_one_checkpoint(path):
    save(path, {"state_dict": WEIGHTS})
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "released/model.pth.tar")
        file.writestr("readme.txt", "hello")
    check(read_checkpoint(str(archive)))
    with zipfile.ZipFile(archive, "a") as file:
        file.write(path, "released/other.pth")
    with pytest.raises(CheckpointError, match="archive of 2 checkpoints, it must have one"):
        read_checkpoint(str(archive))


def test_arrays_and_safetensors(tmp_path):
    np.savez(tmp_path / "a.npz", **{name: part.numpy() for name, part in WEIGHTS.items()})
    check(read_checkpoint(str(tmp_path / "a.npz")))
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file(WEIGHTS, file)
    assert file.read_bytes()[0] == 0x80  # a length, but a pickle begins so too
    check(read_checkpoint(str(file)))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_of_arrays_is_read(path, protocol):
    """As Detectron2 and Mask2Former publish theirs."""
    arrays = {name: np.asfortranarray(part.numpy()) for name, part in WEIGHTS.items()}
    content = {"model": arrays, "__author__": "somebody", "lr": np.float32(0.5)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    check(read_checkpoint(str(path)))
    assert read_file(path)["lr"] == 0.5
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="file.pth is damaged or incomplete"):
        read_checkpoint(str(path))


def test_an_archive_that_unpacks_to_too_much_is_refused(path, monkeypatch):
    write_archive(path, WEIGHTS)
    usage = shutil.disk_usage(path.parent)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CheckpointError, match="file.pth unpacks to 0 MiB, .* has room for 0: set"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("value", [np.float64(3.5), np.int32(-4), np.bool_(True), np.str_("x")])
@pytest.mark.parametrize("new_format", [True, False])
def test_numbers_of_numpy_paths_and_arguments_may_stand_in_a_checkpoint(path, value, new_format):
    arguments = argparse.Namespace(data=pathlib.PosixPath("/data"), lr=value)
    content = {"model": WEIGHTS, "best": value, "args": arguments}
    check(read_checkpoint(save(path, content, _use_new_zipfile_serialization=new_format)))
    read = read_file(path)
    assert (read["best"], read["args"].lr) == (value, value)
    assert read["args"].data == arguments.data


class Scalar:
    """Pickled as numpy pickles a scalar of the type."""

    def __init__(self, dtype, data):
        self.content = (np.dtype(dtype), data)

    def __reduce__(self):
        return np.float64(0).__reduce__()[0], self.content


def test_scalars_of_other_machines_are_read_and_objects_are_not(path):
    save(path, {"model": WEIGHTS, "best": Scalar(">f8", np.array(3.5, ">f8").tobytes())})
    assert read_file(path)["best"] == 3.5
    with pytest.raises(CheckpointError, match="Trying to build a numpy scalar of type 'O8'"):
        read_checkpoint(save(path, {"model": WEIGHTS, "best": Scalar("O", b"12345678")}))
    path.write_bytes(pickle.dumps({"model": {"x": np.array([{}], dtype=object)}}))
    with pytest.raises(CheckpointError, match="more than arrays .Trying to build a numpy scalar"):
        read_checkpoint(str(path))


def averaged(state):
    return {name: tensor + 1 for name, tensor in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"model": WEIGHTS, "model_ema": averaged(WEIGHTS)},
        {"state_dict": WEIGHTS, "state_dict_ema": averaged(WEIGHTS)},
        WEIGHTS | {"ema_a_weight": WEIGHTS["a.weight"] + 1, "ema_a_bias": WEIGHTS["a.bias"] + 1},
    ],
)
def test_averaged_weights_are_taken_when_asked_for(path, content):
    check(read_checkpoint(save(path, content), ema=True), averaged(WEIGHTS))
    plain = read_checkpoint(str(path))
    check({name: tensor for name, tensor in plain.items() if not name.startswith("ema_")})


def test_what_has_no_average_is_taken_as_it_is(path):
    content = {"model": WEIGHTS, "ema": {"a.weight": WEIGHTS["a.weight"] + 1}}
    mixed = read_checkpoint(save(path, content), ema=True)
    check(mixed, WEIGHTS | {"a.weight": WEIGHTS["a.weight"] + 1})
    check(read_checkpoint(str(path)))


def test_averaged_weights_that_are_not_there_are_not_made_up(path):
    with pytest.raises(CheckpointError, match="holds no averaged weights, which --ema asks for"):
        read_checkpoint(save(path, WEIGHTS), ema=True)


class Payload:
    def __reduce__(self):
        return os.mkdir, (os.environ["PAYLOAD"],)


class Harmless:
    pass


def write_archive(path, content):
    inner = path.with_suffix(".inner")
    torch.save(content, inner)
    with zipfile.ZipFile(path, "w") as file:
        file.write(inner, "model.pth")


MALICIOUS = {
    "new": torch.save,
    "old": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "archive": lambda content, path: write_archive(path, content),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps({"x": content["x"]})),
    "arrays": lambda content, path: np.savez(
        path.open("wb"), x=np.array([content["x"]], dtype=object)
    ),
}


@pytest.mark.parametrize("container", MALICIOUS)
def test_code_in_a_file_is_refused_and_not_run(container, path, monkeypatch):
    payload = path.with_name("executed")
    monkeypatch.setenv("PAYLOAD", str(payload))
    MALICIOUS[container]({"model": WEIGHTS, "x": Payload()}, path)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(str(path))
    assert not payload.exists()
    sentence = str(error.value)
    assert str(path) in sentence and "\n" not in sentence
    assert "damaged" not in sentence
    if container != "arrays":
        assert "posix.mkdir" in sentence and "--trust" in sentence


def test_trust_reads_what_is_more_than_tensors(path):
    save(path, {"model": WEIGHTS, "config": Harmless()})
    with pytest.raises(CheckpointError, match=r"more than tensors \(test_reading.Harmless\)"):
        read_checkpoint(str(path))
    check(read_checkpoint(str(path), trust=True))
    path.write_bytes(pickle.dumps({"model": WEIGHTS, "config": Harmless()}))
    with pytest.raises(CheckpointError, match=r"is a pickle.*torch._utils._rebuild_tensor_v2"):
        read_checkpoint(str(path))
    check(read_checkpoint(str(path), trust=True))
    assert read_checkpoint(save(path, nn.Linear(1, 1)), trust=True).keys() == {"weight", "bias"}


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("share", [0.99, 0.6, 0.1])
def test_a_truncated_file_is_named(path, share, new_format):
    save(path, WEIGHTS, _use_new_zipfile_serialization=new_format)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="file.pth is damaged or incomplete") as error:
        read_checkpoint(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data, told",
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html>\n<html>", "it is a web page, so the download went wrong"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (b"\x89PNG\r\n\x1a\n", "its first bytes are b'.x89PNG"),
    ],
)
def test_what_is_no_checkpoint_is_said(path, data, told):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"file.pth is no checkpoint: {told}"):
        read_checkpoint(str(path))


def test_what_holds_no_weights_is_said(path):
    with pytest.raises(CheckpointError, match="holds no tensors; its entries are: epoch, args"):
        read_checkpoint(save(path, {"epoch": 3, "args": "x"}))
    with pytest.raises(CheckpointError, match="holds no tensors; its entries are: 0"):
        read_checkpoint(save(path, {0: torch.ones(3)}))
    with pytest.raises(CheckpointError, match="holds a Tensor, no dictionary"):
        read_checkpoint(save(path, torch.ones(3)))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", b"")
        file.writestr("model/constants.pkl", b"")
        file.writestr("model/code/__torch__.py", b"")
    with pytest.raises(CheckpointError, match="is a program .TorchScript., no checkpoint"):
        read_checkpoint(str(path))


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint at {path}"):
            read_checkpoint(str(path))


class Server(http.server.BaseHTTPRequestHandler):
    """Counts requests; "/cut" promises more than it sends."""

    requests: list[str] = []
    data = b""

    def do_GET(self):  # noqa: N802
        self.requests.append(self.path)
        if self.path == "/none.pth":
            self.send_error(404)
            return
        self.send_response(200)
        extra = 1000 if self.path.startswith("/cut") else 0
        self.send_header("Content-Length", str(len(self.data) + extra))
        self.end_headers()
        self.wfile.write(self.data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(path, tmp_path, monkeypatch):
    """The address of a server, downloads going to a folder of the test."""
    monkeypatch.setattr(file_io, "get_cache_dir", lambda folder=None: str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    save(path, WEIGHTS)
    Server.data, Server.requests = path.read_bytes(), []
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_url_is_downloaded_once(server):
    for _ in range(2):
        check(read_checkpoint(f"{server}/files/model.pth"))
    assert Server.requests == ["/files/model.pth"]


def test_a_broken_download_leaves_nothing_and_is_named(server, tmp_path):
    with pytest.raises(DownloadError, match=r"cut/model.pth cannot be downloaded \(.*retrieval"):
        read_checkpoint(f"{server}/cut/model.pth")
    left = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert not [file for file in left if file.suffix != ".lock"]


def test_an_address_without_a_file_is_named(server):
    with pytest.raises(DownloadError, match="none.pth cannot be downloaded .HTTP Error 404"):
        read_checkpoint(f"{server}/none.pth")


def test_a_url_without_a_network_is_named(server):
    with pytest.raises(DownloadError, match="cannot be downloaded .*fetch it where there is a net"):
        read_checkpoint("http://127.0.0.1:9/model.pth")


def test_what_lies_beside_the_checkpoint_in_an_archive_is_passed_over(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pth")
    path = tmp_path / "release.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.write(tmp_path / "model.pth", "repo/model.pth")
        for name in ("__MACOSX/repo/._model.pth", "repo/code/train.py", "repo/mean.npy"):
            file.writestr(name, b"")
    assert read_checkpoint(str(path))["weight"].eq(1).all()


def test_arrays_of_another_byte_order_and_texts(tmp_path):
    values = np.array([1.0, 2.0])
    arrays = {"big": values.astype(">f4"), "names": np.array(["a", "b"])}
    np.savez(tmp_path / "arrays.npz", **arrays)
    with (tmp_path / "arrays.pkl").open("wb") as file:
        pickle.dump(arrays, file)
    for name in ("arrays.npz", "arrays.pkl"):
        found = read_checkpoint(str(tmp_path / name))
        assert found.keys() == {"big"} and found["big"].tolist() == [1.0, 2.0]


def test_files_may_be_read_side_by_side_and_the_list_of_the_user_stays(tmp_path):
    torch.save(
        {"args": argparse.Namespace(lr=1.0), "model": {"weight": torch.ones(2)}}, tmp_path / "a.pth"
    )
    with torch.serialization.safe_globals([argparse.Namespace]), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read_checkpoint, [str(tmp_path / "a.pth")] * 16))
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert all(one["weight"].eq(1).all() for one in found)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
