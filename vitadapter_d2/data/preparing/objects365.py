"""Objects365 v2: the released annotation file made to fit the images as they are unpacked."""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from vitadapter_d2.data.coco_format import read_json
from vitadapter_d2.data.datasets.objects365 import objects365_images, objects365_json
from vitadapter_d2.data.datasets.objects365_categories import OBJECTS365_V2_NAMES
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.data.preparing.label_maps import Prepared, write_json
from vitadapter_d2.data.reading import image_size
from vitadapter_d2.files import replacing

Json = dict[str, Any]
NEVER_RELEASED = frozenset(
    {
        "patch16/objects365_v2_00908726.jpg",
        "patch6/objects365_v1_00320532.jpg",
        "patch6/objects365_v1_00320534.jpg",
    }
)
"""Images of the training annotations that no archive of the release has."""

_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
_IMAGE_KEYS = ("id", "file_name", "height", "width")


def prepare_objects365(
    root: str,
    split: str,
    *,
    leave_out: bool = False,
    workers: int | None = None,
    title: str | None = None,
) -> Prepared:
    """Write ``objects365_v2_<split>.json`` from the released ``zhiyuan_objv2_<split>.json``.

    Image names get the form ``patch0/<name>.jpg``, class names lose the blanks at their ends, and
    the images that the release itself lacks are left out. Every image's size is compared with the
    annotations; folders that were found complete are not read again after an interruption.

    Args:
        root: the data root.
        split: ``"train"`` or ``"val"``.
        leave_out: leave out other images that are missing or wrong, with their annotations, and
            list them in ``left_out_<split>.txt``.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Returns:
        One file written, or none if it existed, and the number of images in it.

    Raises:
        FileNotFoundError: if the released file is missing.
        ValueError: if it is another file, or images are missing or wrong.
    """
    target = Path(objects365_json(root, split))
    if target.exists():
        return Prepared(0, len(read_json(target)["images"]))
    source = target.with_name(f"zhiyuan_objv2_{split}.json")
    content = _read_release(source)
    images = [_image(image) for image in content["images"]]
    images = [image for image in images if image["file_name"] not in NEVER_RELEASED]
    folder = Path(objects365_images(root, split))
    problems = _check_patches(folder, target.parent, split, images, workers, title)
    if problems and not leave_out:
        names = "; ".join(list(problems.values())[:3])
        raise ValueError(
            f"{len(problems)} of {len(images)} images in {folder} are missing or wrong: {names}...;"
            " unpack them again, or leave them out with --leave-out"
        )
    if problems:
        with replacing(target.with_name(f"left_out_{split}.txt"), "w") as file:
            file.writelines(f"{line}\n" for line in problems.values())
    kept = [image for image in images if image["file_name"] not in problems]
    ids = {image["id"] for image in kept}
    annotations = [
        {key: annotation[key] for key in _ANNOTATION_KEYS if key in annotation}
        for annotation in content["annotations"]
        if annotation["image_id"] in ids
    ]
    categories = [{"id": i, "name": n} for i, n in enumerate(OBJECTS365_V2_NAMES, start=1)]
    write_json(target, {"images": kept, "annotations": annotations, "categories": categories})
    return Prepared(1, len(kept))


def _read_release(source: Path) -> Json:
    """Read the released file; its classes must be those of version 2."""
    content = read_json(source)
    try:
        names = {category["id"]: category["name"].strip() for category in content["categories"]}
        for part, key in (("images", "file_name"), ("annotations", "image_id")):
            if content[part]:
                content[part][0][key]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} is no annotation file of Objects365: {error!r}") from error
    for number, expected in enumerate(OBJECTS365_V2_NAMES, start=1):
        if names.get(number) != expected:
            raise ValueError(
                f"{source} names class {number} {names.get(number)!r}, version 2 names it "
                f"{expected!r}"
            )
    return content


def _image(image: Json) -> Json:
    """Keep the folder of the patch and the name: ``images/v1/patch8/x.jpg`` -> ``patch8/x.jpg``."""
    kept = {key: image[key] for key in _IMAGE_KEYS}
    return kept | {"file_name": "/".join(Path(image["file_name"]).parts[-2:])}


def _check_patches(
    folder: Path,
    annotations: Path,
    split: str,
    images: list[Json],
    workers: int | None,
    title: str | None,
) -> dict[str, str]:
    """Return name -> what is wrong of every image that is not as the annotations say."""
    patches: dict[str, list[Json]] = defaultdict(list)
    for image in images:
        patches[str(Path(image["file_name"]).parent)].append(image)
    check = partial(_check_patch, folder, annotations / f"checked_{split}")
    results = parallel_map(check, sorted(patches.items()), workers, title, unit="patch")
    return {name: problem for found in results for name, problem in found.items()}


def _check_patch(folder: Path, checked: Path, patch: tuple[str, list[Json]]) -> dict[str, str]:
    name, images = patch
    marker = checked / f"{name}.txt"
    if marker.is_file() and marker.read_text(encoding="utf-8") == str(len(images)):
        return {}
    problems = {
        image["file_name"]: problem
        for image in images
        if (problem := _image_problem(folder / image["file_name"], image))
    }
    if not problems:
        with replacing(marker, "w") as file:
            file.write(str(len(images)))
    return problems


def _image_problem(path: Path, image: Json) -> str | None:
    """Compare the size in the file's header, turned as its camera says, with the annotations."""
    try:
        width, height = image_size(path)
    except (OSError, ValueError) as error:
        return str(error)
    if (width, height) != (image["width"], image["height"]):
        expected = f"{image['width']} x {image['height']}"
        return f"{path} has {width} x {height} pixels, its annotations say {expected}"
    return None
