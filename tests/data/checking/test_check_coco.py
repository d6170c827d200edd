import copy
import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vitadapter_d2.data.checking.coco import (
    EMPTY_MASK,
    check_coco,
    count_classes,
    ranges,
    run_length_problem,
)
from vitadapter_d2.data.checking.findings import refuse
from vitadapter_d2.data.checking.panoptic import check_panoptic, count_segment_classes

SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]


def coco() -> dict[str, Any]:
    """Two images of 20 x 30; a polygon and a crowd, both legal, on the first."""
    annotation = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4], "segmentation": [SQUARE]}
    code = {"size": [20, 30], "counts": [10, 20, 570]}
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 20, "width": 30},
            {"id": 8, "file_name": "b.jpg", "height": 20, "width": 30},
        ],
        "categories": [{"id": 3, "name": "bolt"}, {"id": 5, "name": "belt"}],
        "annotations": [
            {"id": 1, **annotation},
            {"id": 2, **annotation, "iscrowd": 1, "segmentation": code},
        ],
    }


def panoptic() -> dict[str, Any]:
    segments = [{"id": 4, "category_id": 3, "area": 9}, {"id": 5, "category_id": 5, "area": 1}]
    return {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "categories": [{"id": 3, "name": "bolt"}, {"id": 5, "name": "belt"}],
        "annotations": [
            {"image_id": 7, "file_name": "a.png", "segments_info": segments},
            {"image_id": 8, "file_name": "b.png", "segments_info": []},
        ],
    }


def errors(findings) -> list[str]:
    return [str(finding) for finding in findings if finding.is_error]


def test_a_good_file_has_notes_but_no_errors():
    findings = check_coco(coco())
    assert not errors(findings)
    assert {f.kind: f.examples for f in findings} == {
        "image without annotation": ("b.jpg",),
        "crowd": ("annotation 2",),
        "class without annotation": ("belt",),
    }
    assert count_classes(coco()) == {"bolt": 2, "belt": 0}
    assert not errors(check_panoptic(panoptic()))
    assert count_segment_classes(panoptic()) == {"bolt": 1, "belt": 1}


def code(mask) -> str:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def test_compressed_run_lengths_must_fill_their_image():
    rng = np.random.default_rng(0)
    for height, width, share in ((1, 1, 1.0), (20, 30, 0.5), (300, 700, 0.5), (300, 700, 1e-4)):
        mask = rng.random((height, width)) < share
        text, size = code(mask), [height, width]
        assert run_length_problem({"size": size, "counts": text}, None) is None
        for wrong in (text + "1", text[: len(text) // 2], text[:-1] + "5"):
            problem = run_length_problem({"size": size, "counts": wrong}, None)
            assert problem and problem != EMPTY_MASK
    assert (
        run_length_problem({"size": [9, 9], "counts": code(np.zeros((9, 9)))}, None) == EMPTY_MASK
    )
    for text in ("", "é", " ", "o" * 99, "o" * 99 + "0", "N"):
        problem = run_length_problem({"size": [9, 9], "counts": text}, None)
        assert "not whole numbers" in str(problem) or "not fill" in str(problem)


FIRST = "annotation 1 of image 7"
CASES = [  # part, place, key, value (None removes the key), the error, fatal
    ("images", 1, "id", 7, "1 x image id that occurs more than once: 7", True),
    ("images", 1, "file_name", "a.jpg", "1 x file name of more than one image: a.jpg", False),
    ("images", 1, "height", None, "1 x image without height: image 8", True),
    ("images", 1, "width", 0, "positive whole number: image 8: 20 x 0", True),
    ("images", 1, "width", "30", "positive whole number: image 8: 20 x 30", True),
    ("categories", 1, "id", 3, "1 x category id that occurs more than once: 3", True),
    ("categories", 1, "name", "bolt", "1 x name of more than one category: bolt", False),
    ("categories", 1, "name", None, "1 x category without name: category 5", True),
    ("annotations", 1, "id", 1, "1 x annotation id that occurs more than once: 1", True),
    ("annotations", 0, "category_id", 4, "legal ones are 3, 5: annotation 1 has 4", True),
    ("annotations", 0, "image_id", 9, "that is not listed: annotation 1 of image 9", False),
    ("annotations", 0, "ignore", 1, "does not know", True),
    ("annotations", 0, "bbox", None, "1 x annotation without bbox: annotation 1", True),
    ("annotations", 0, "bbox", [1, 1, 4], f"not four finite numbers x, y, width, height: {FIRST}",
     False),
    ("annotations", 0, "bbox", [1, 1, 4, float("nan")], "not four finite", False),
    ("annotations", 0, "bbox", [1, 1, 0, 4], f"box of zero or negative area: {FIRST}", False),
    ("annotations", 0, "bbox", [1, 1, 4, -1], "box of zero or negative area", False),
    ("annotations", 0, "bbox", [30, 1, 4, 4], f"1 x box outside of its image: {FIRST}", False),
    ("annotations", 0, "bbox", [25, 1, 6.5, 4], "reaches out of its image", False),
    ("annotations", 0, "segmentation", [], f"without segmentation in a file that has them: {FIRST}",
     False),
    ("annotations", 0, "segmentation", [[1, 1, 2, 2]], "without a polygon of three points", False),
    ("annotations", 0, "segmentation", [SQUARE, [1, 1]], "fewer than three points", False),
    ("annotations", 0, "segmentation", "x", "neither polygons nor a run-length code", False),
    ("annotations", 1, "segmentation", {"size": [30, 20], "counts": [600]}, "another size", False),
    ("annotations", 1, "segmentation", {"size": [20, 30], "counts": [599]}, "not fill", False),
    ("annotations", 1, "segmentation", {"size": [20, 30], "counts": [600]}, "without a pixel",
     False),
    ("annotations", 1, "segmentation", {"size": [20, 30]}, "without size or counts", False),
]  # fmt: skip


@pytest.mark.parametrize(("part", "place", "key", "value", "message", "is_fatal"), CASES)
def test_each_error_is_found_alone_and_named(part, place, key, value, message, is_fatal):
    content = coco()
    entry = content[part][place]
    entry.pop(key, None)
    if value is not None:
        entry[key] = value
    findings = check_coco(content)
    (error,) = errors(findings)
    assert message in error
    if is_fatal:
        with pytest.raises(ValueError, match=r"mine\.json cannot be used: 1 x"):
            refuse(findings, "mine.json")
    else:
        refuse(findings, "mine.json")


def test_a_file_of_another_kind_is_refused():
    for content, message in (
        ([], "a list, not an object"),
        ({"images": []}, "missing list of the file: 'categories'"),
        ({"images": [], "categories": []}, "file without a category"),
        ({**coco(), "annotations": [3]}, "annotation number 0 of the list"),
    ):
        with pytest.raises(ValueError, match="cannot be used") as refused:
            refuse(check_coco(content), "mine.json")
        assert message in str(refused.value)


def test_boxes_without_masks_and_lvis_are_legal():
    content = coco()
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    assert not errors(check_coco(content))
    for image in content["images"]:
        image["coco_url"] = image.pop("file_name")
    assert errors(check_coco(content))
    assert not errors(check_coco(content, needs_file_names=False))


def test_only_the_first_of_many_are_named():
    content = coco()
    broken = {**content["annotations"][0], "bbox": [1, 1, 0, 0]}
    content["annotations"] = [{**broken, "id": number} for number in range(100)]
    (error,) = errors(check_coco(content))
    assert error.startswith("100 x box of zero") and error.endswith("annotation 4 of image 7, ...")


PANOPTIC_CASES = [
    (("images", 1, "id"), 7, "image id that occurs more than once: 7"),
    (("annotations", 1, "image_id"), 9, "annotation of an image that is not listed: 9"),
    (("annotations", 1, "image_id"), 7, "image with more than one annotation: 7"),
    (("annotations", 0, "segments_info", 1, "id"), 4, "more than once: 4 in a.png"),
    (("annotations", 0, "segments_info", 1, "category_id"), 9, "segment 5 of a.png has 9"),
    (("annotations", 0, "segments_info", 1, "area"), 0, "segment without a pixel: 5 in a.png"),
    (("annotations", 0, "segments_info", 1), {"id": 5, "category_id": 5}, "without area"),
]


@pytest.mark.parametrize(("path", "value", "message"), PANOPTIC_CASES)
def test_each_panoptic_error_is_named(path, value, message):
    content = panoptic()
    entry = content
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    assert any(message in error for error in errors(check_panoptic(content)))


def test_panoptic_keys_that_are_missing_are_named():
    content = panoptic()
    del content["annotations"][0]["segments_info"]
    assert errors(check_panoptic(content)) == ["1 x annotation without segments_info: annotation "
                                               "number 0 of the list"]  # fmt: skip
    del content["annotations"]
    assert errors(check_panoptic(content)) == ["1 x missing list of the file: 'annotations'"]


def test_nothing_is_changed():
    content = coco()
    before = copy.deepcopy(content)
    check_coco(content)
    assert content == before and json.dumps(content)


def test_ranges_are_short():
    assert ranges([5, 1, 2, 3]) == "1 to 3, 5"
    assert ranges(["b", "a"]) == "'a', 'b'"


@pytest.mark.parametrize("value", [None, 1, "x", [1], {}, float("inf"), True, "MISSING"])
@pytest.mark.parametrize("make", [coco, panoptic])
def test_no_content_whatever_stops_the_check(make, value):
    check = check_coco if make is coco else check_panoptic
    for part in make():
        for place in [(part,), (part, 0), *((part, 0, key) for key in make()[part][0])]:
            content = make()
            *path, last = place
            inner = content
            for step in path:
                inner = inner[step]
            if value == "MISSING":
                del inner[last]
            else:
                inner[last] = value
            findings = check(content)
            assert all(map(str, findings))
            if check is check_panoptic and not any(finding.is_fatal for finding in findings):
                assert isinstance(count_segment_classes(content), dict)
