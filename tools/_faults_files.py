"""Faults of what a user supplies: images, label maps, annotations, weights."""

import json
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from _faults_runs import IMAGES, SEED
from _faults_scene import Scene
from detectron2.data.samplers import TrainingSampler

_REPAIRED = "repair the file, `--resume`"


def _late_image() -> str:
    """The name of the image that the run meets last: there is a checkpoint by then."""
    return f"{list(islice(TrainingSampler(IMAGES, seed=SEED), IMAGES))[-1] + 1:06d}"


def missing_image(scene: Scene) -> None:
    """Training stops."""
    path = _image(scene)
    scene.account.done = f"`{path.name}` was moved away"
    _stops(scene, path, path.unlink, rf"missing image {_shown(path)}")


def missing_image_skipped(scene: Scene) -> None:
    """Training goes on with another one."""
    path = _image(scene)
    scene.account.done = f"`{path.name}` was moved away; `dataloader.train.on_error=skip`"
    path.unlink()
    _skips(scene, rf"skipped a sample, 1 so far: missing image {_shown(path)}")


def truncated_jpeg(scene: Scene) -> None:
    """Training stops."""
    path = _image(scene)
    scene.account.done = f"the second half of `{path.name}` was cut off"
    _stops(scene, path, lambda: _halve(path), rf"damaged image {_shown(path)}")


def truncated_jpeg_skipped(scene: Scene) -> None:
    """Training goes on with another one."""
    path = _image(scene)
    scene.account.done = (
        f"the second half of `{path.name}` was cut off; `dataloader.train.on_error=skip`"
    )
    _halve(path)
    _skips(scene, rf"skipped a sample, 1 so far: damaged image {_shown(path)}")


def truncated_png(scene: Scene) -> None:
    """Training stops."""
    path = _label_map(scene)
    scene.account.done = f"the second half of the label map `{path.name}` was cut off"
    _stops(scene, path, lambda: _halve(path), rf"unreadable label map {_shown(path)}")


def truncated_png_skipped(scene: Scene) -> None:
    """Training goes on with another image."""
    path = _label_map(scene)
    scene.account.done = (
        f"the second half of the label map `{path.name}` was cut off; "
        "`dataloader.train.on_error=skip`"
    )
    _halve(path)
    _skips(scene, rf"skipped a sample, 1 so far: unreadable label map {_shown(path)}")


def missing_test_image(scene: Scene) -> None:
    """It is known before the training starts."""
    path = _test_image(scene)
    scene.account.done = f"the evaluated `{path.name}` was moved away"
    path.unlink()
    scene.ends(scene.start(), 1, rf"lacks .*{_shown(path)}")
    scene.account.go_on.append("get the file, and start; no iteration was done")


def truncated_test_image(scene: Scene) -> None:
    """It is met in the evaluation, behind the last checkpoint."""
    path = _test_image(scene)
    scene.account.done = f"the second half of the evaluated `{path.name}` was cut off"
    _stops(scene, path, lambda: _halve(path), rf"damaged image {_shown(path)}")


def _test_image(scene: Scene) -> Path:
    return next(scene.data.glob("images/val/*.jpg"))


def _image(scene: Scene) -> Path:
    return scene.data / "images" / "train" / f"{_late_image()}.jpg"


def _label_map(scene: Scene) -> Path:
    return scene.data / "panoptic_train" / f"{_late_image()}.png"


def _shown(path: Path) -> str:
    return f"datasets/shapes/.*{path.name}"


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _stops(scene: Scene, path: Path, damage: Callable[[], None], pattern: str) -> None:
    content = path.read_bytes()
    damage()
    scene.ends(scene.start(), 1, pattern)
    path.write_bytes(content)
    scene.resumes(_REPAIRED)


def _skips(scene: Scene, pattern: str) -> None:
    scene.ends(scene.start("dataloader.train.on_error=skip"), 0, pattern, on="log")
    scene.account.go_on.append("nothing to do: another sample takes its place")


def wrong_category(scene: Scene) -> None:
    """An annotation of a class that there is not."""
    scene.account.done = "the category id of one segment was set to 77"

    def change(content: dict[str, Any]) -> None:
        content["annotations"][2]["segments_info"][0]["category_id"] = 77

    _refused(scene, change, "unknown category id, legal ones are .*000003.png has 77")


def repeated_image(scene: Scene) -> None:
    """Two images with one id."""
    scene.account.done = "image and annotation 4 were given the id 3"

    def change(content: dict[str, Any]) -> None:
        content["images"][3]["id"] = content["annotations"][3]["image_id"] = 3

    _refused(scene, change, "image id that occurs more than once: 3")


def _refused(scene: Scene, change: Callable[[dict[str, Any]], None], pattern: str) -> None:
    path = scene.data / "annotations" / "panoptic_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    scene.ends(scene.start(), 1, rf"datasets/shapes/annotations/panoptic_train\.json .*{pattern}")
    scene.account.go_on.append("correct the file, and start; no iteration was done")


def missing_weights(scene: Scene) -> None:
    """No such file."""
    scene.account.done = "`train.init_checkpoint=weights.pth`, which is not there"
    scene.ends(scene.start("train.init_checkpoint=weights.pth"), 1, "weights.pth does not exist")
    scene.account.go_on.append("give the right path, and start")


def other_weights(scene: Scene) -> None:
    """A checkpoint of another model."""
    scene.account.done = "`train.init_checkpoint` was a checkpoint with the weights of a ResNet"
    names = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight", "fc.bias")
    torch.save({name: torch.zeros(3) for name in names}, scene.folder / "weights.pth")
    pattern = "weights.pth cannot be used: nothing in the file belongs to this model"
    scene.ends(scene.start("train.init_checkpoint=weights.pth"), 1, pattern)
    scene.account.go_on.append("give a checkpoint of this model or of its trunk, and start")


def web_page_for_weights(scene: Scene) -> None:
    """What a download leaves that went wrong."""
    scene.account.done = "`train.init_checkpoint` was a web page under the name of the weights"
    (scene.folder / "weights.pth").write_text("<!DOCTYPE html><title>404</title>")
    run = scene.start("train.init_checkpoint=weights.pth")
    scene.ends(run, 1, r"weights\.pth is no checkpoint: it is a web page")
    scene.account.go_on.append("fetch it again, and start")
