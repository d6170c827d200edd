"""Random objects and detections in COCO's format: ellipses, some of them crowds, ties of scores."""

import numpy as np
import pycocotools.mask as mask_util

HEIGHT, WIDTH = 160, 200


def ellipse(x, y, w, h):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
    encoded = mask_util.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def random_box(generator):
    w, h = generator.uniform(4, 150, 2)
    return generator.uniform(0, WIDTH - w), generator.uniform(0, HEIGHT - h), w, h


def jittered(generator, box):
    x, y, w, h = box
    dx, dy, dw, dh = generator.normal(0, 0.1, 4)
    return x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)


def annotations(generator, images, classes, most_objects):
    """An annotation file; the first image has no objects."""
    objects = []
    for image in range(1, images):
        for _ in range(generator.integers(1, most_objects + 1)):
            box = random_box(generator)
            mask = ellipse(*box)
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image,
                    "category_id": 10 * int(generator.integers(1, classes + 1)),
                    "bbox": [float(value) for value in box],
                    "area": float(mask_util.area(mask)),
                    "iscrowd": int(generator.random() < 0.15),
                    "segmentation": mask,
                }
            )
    return {
        "images": [
            {"id": image, "height": HEIGHT, "width": WIDTH, "file_name": f"{image}.png"}
            for image in range(images)
        ],
        "annotations": objects,
        "categories": [
            {"id": 10 * number, "name": f"class {number}"} for number in range(1, classes + 1)
        ],
    }


def detections(generator, content, count):
    """``count`` per image: near objects or anywhere, half of the scores rounded."""
    classes = len(content["categories"])
    results = []
    for image in content["images"]:
        own = [part for part in content["annotations"] if part["image_id"] == image["id"]]
        for _ in range(count):
            category = 10 * int(generator.integers(1, classes + 1))
            box = random_box(generator)
            if own and generator.random() < 0.7:
                near = own[generator.integers(len(own))]
                box = jittered(generator, near["bbox"])
                category = near["category_id"] if generator.random() < 0.9 else category
            score = generator.random()
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [float(value) for value in box],
                    "score": float(round(score, 1) if generator.random() < 0.5 else score),
                    "segmentation": ellipse(*box),
                }
            )
    return results
