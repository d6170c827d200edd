#!/usr/bin/env python
"""Write MODEL_ZOO.md: every published configuration with its weights, numbers and cost.

    python tools/list_models.py            # two minutes on one core
    python tools/list_models.py --check    # exit status 1 when the page is stale

Read from the configurations and their models, built on the meta device (no memory, no weights).
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from analyze_model import count_multiply_adds, is_whole
from omegaconf import DictConfig
from torch import nn

from vitadapter_d2 import model_zoo
from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.files import replacing
from vitadapter_d2.modeling.backbone import ViTAdapter
from vitadapter_d2.modeling.backbone.interaction import ConvFFN
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT
from vitadapter_d2.modeling.backbone.simple_fpn import ConvPropagation

PAGE = Path(__file__).resolve().parents[1] / "MODEL_ZOO.md"
GENERATED = "shapes/"  # the data set that is no one's benchmark
DETECTION_SIZE = (800, 1280)
NONE = "–"

# What people call the training sets, in the order of the page; others follow under their own name.
TITLES = {
    "ade20k_sem_seg_train": "ADE20K",
    "cityscapes_fine_sem_seg_train": "Cityscapes",
    "mapillary_vistas_cityscapes_sem_seg_train": "Mapillary Vistas",
    "coco_2017_train_stuff_164k_sem_seg": "COCO-Stuff-164K",
    "coco_2017_train_stuff_10k_sem_seg": "COCO-Stuff-10K",
    "pascal_context_59_sem_seg_train": "Pascal Context",
    "potsdam_sem_seg_train": "Potsdam",
    "chase_db1_sem_seg_train": "CHASE DB1",
    "coco_2017_train": "COCO, boxes and masks",
    "coco_2017_train as masks": "COCO, masks",
    "coco_2017_train_panoptic": "COCO, panoptic",
    "lvis_v1_train": "LVIS v1",
    "ade20k_panoptic_train": "ADE20K, panoptic",
    "ade20k_instance_train as masks": "ADE20K, masks",
    "cityscapes_fine_panoptic_train": "Cityscapes, panoptic",
    "cityscapes_fine_instance_seg_train as masks": "Cityscapes, masks",
}
# Of the classes that are not called as the method is.
METHODS = {
    "UPerNetHead": "UPerNet",
    "SemanticFPNHead": "Semantic FPN",
    "SETRPUPHead": "SETR-PUP",
    "StandardROIHeads": "Mask R-CNN",
    "CascadeMaskROIHeads": "Cascade Mask R-CNN",
    "HTCROIHeads": "HTC++",
    "SparseRCNN": "Sparse R-CNN",
}
BACKBONES = {
    "ViTAdapter": "ViT-Adapter-{}",
    "InjectedViTPyramid": "ViT-{} with injectors",
}
SIZES = {(192, 12): "T", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1408, 40): "g"}
# Part of a checkpoint's file name -> how its weights were made.
PRETRAINING = {
    "o365": "Objects365",
    "deit_": "DeiT",
    "beitv2_": "BEiTv2",
    "beit_": "BEiT",
    "_16-i21k-300ep": "AugReg",
    "uni-perceiver": "Uni-Perceiver",
    "dinov2_": "DINOv2",
    "mae_": "MAE",
}
HEADER = """# Model zoo

Written by `python tools/list_models.py`; do not edit.

{total} configurations, {released} with weights that the authors of ViT-Adapter released; those load
as they are. `model_zoo.get`, `Predictor` and the tools take folder and name:
`{example}`.

- *from*: the weights that the training starts with, and what those were made from.
- *training*: iterations x images in a batch.
- *mIoU*, *box AP*, ...: published, in %, not measured here. *MS*: tested at several scales.
- *M*: parameters in millions. *G*: multiply-adds in billions for one image of the *size*, which is
  the training's crop or, on COCO, 800x1280. What a detector's head does depends on the image: there
  *G* is the backbone, with the FPN if there is one.
- *G* counts matrix products, convolutions, attention and deformable attention (four multiply-adds
  per sample and channel). The paper's numbers, made by fvcore, have norms and interpolations too:
  up to 0.6 % more.
"""


@dataclass(frozen=True)
class Entry:
    """What a configuration says.

    Attributes:
        name: of the zoo.
        section: title of its table.
        pretrained: URL of the trunk's weights, or "".
        start: URL or file of what the training starts with, or "".
        released: URL of the trained weights, or "".
        training: iterations and images in a batch.
        metrics: name -> published number.
    """

    name: str
    section: str
    pretrained: str
    start: str
    released: str
    training: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Cost:
    """What its model is, counted.

    Attributes:
        method: such as Mask R-CNN.
        backbone: with its size.
        parameters: all of them.
        size: (height, width) of the image that is counted.
        multiply_adds: of the whole model, or of the backbone.
        is_whole: which of the two.
    """

    method: str
    backbone: str
    parameters: int
    size: tuple[int, int]
    multiply_adds: int
    is_whole: bool


def names() -> list[str]:
    """The configurations on the page."""
    return [name for name in model_zoo.names() if not name.startswith(GENERATED)]


def read(name: str, cfg: DictConfig) -> Entry:
    """What a configuration says itself."""
    loader, zoo = cfg.dataloader.train, cfg.get("zoo", {})
    sets = loader.dataset.names
    sets = [sets] if isinstance(sets, str) else list(sets)
    has_boxes = "InstanceMapper" not in str(loader.mapper._target_)
    title = sets[0] if has_boxes else f"{sets[0]} as masks"
    thousands = f"{cfg.train.max_iter / 1000:.1f}".removesuffix(".0")
    return Entry(
        name=name,
        section=TITLES.get(title, ", ".join(sets)),
        pretrained=zoo.get("pretrained", ""),
        start=cfg.train.init_checkpoint,
        released=zoo.get("released", ""),
        training=f"{thousands}k x {loader.total_batch_size}",
        metrics=zoo.get("metrics", {}),
    )


def count(cfg: DictConfig) -> Cost:
    """Builds a configuration's model on the meta device and counts."""
    with torch.device("meta"):
        model = instantiate(cfg.model).eval()
    size = crop_size(cfg) if is_whole(model) else DETECTION_SIZE
    return Cost(
        method=method(model),
        backbone=backbone(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        size=size,
        multiply_adds=count_multiply_adds(model, size, depth=1).total(),
        is_whole=is_whole(model),
    )


def crop_size(cfg: DictConfig) -> tuple[int, int]:
    """Of the training's crops, where these have one size."""
    for augmentation in cfg.dataloader.train.mapper.augmentations:
        if augmentation.get("crop_type") == "absolute":
            height, width = augmentation.crop_size
            return height, width
    return DETECTION_SIZE


def method(model: nn.Module) -> str:
    """By the class of the head that it is named after, or of the model."""
    parts = (getattr(model, "roi_heads", None), getattr(model, "sem_seg_head", None), model)
    kinds = [type(part).__name__ for part in parts]
    return next((METHODS[kind] for kind in kinds if kind in METHODS), kinds[-1])


def backbone(model: nn.Module) -> str:
    """Kind and size of what is around the trunk."""
    around = next(m for m in model.modules() if isinstance(getattr(m, "vit", None), PlainViT))
    shape = around.vit.embed_dim, around.vit.depth
    size = SIZES.get(shape, "{} wide {} deep".format(*shape))
    kinds = {type(part) for part in around.modules()}
    if ViTAdapter in kinds and ConvFFN not in kinds:
        size += "-light"
    default = "ViTDet-{}" if ConvPropagation in kinds else "ViT-{}"
    return BACKBONES.get(type(around).__name__, default).format(size)


def page(costs: Iterable[tuple[Entry, Cost]]) -> str:
    """The whole page, in Markdown."""
    sections: dict[str, list[tuple[Entry, Cost]]] = defaultdict(list)
    for entry, cost in costs:
        sections[entry.section].append((entry, cost))
    entries = [entry for rows in sections.values() for entry, _ in rows]
    order = [*TITLES.values(), *sections]
    header = HEADER.format(
        total=len(entries),
        released=sum(bool(entry.released) for entry in entries),
        example=entries[0].name,
    )
    tables = [
        f"## {title}\n\n{_table(sections[title], entries)}\n"
        for title in sorted(sections, key=order.index)
    ]
    return "\n".join([header, *tables])


def _table(rows: Sequence[tuple[Entry, Cost]], entries: Sequence[Entry]) -> str:
    metrics = list(dict.fromkeys(name for entry, _ in rows for name in entry.metrics))
    is_whole = all(cost.is_whole for _, cost in rows)
    titles = [metric.replace("_ms", " MS").replace("_", " ") for metric in metrics]
    left = ["name", "method", "backbone", "from", "training", "size"]
    right = [*titles, "M", "G" if is_whole else "G, backbone"]
    lines = [
        [*left, *right, "weights"],
        ["---"] * len(left) + ["---:"] * len(right) + ["---"],
        *([*settings_cells(*row, entries), *number_cells(*row, metrics)] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings_cells(entry: Entry, cost: Cost, entries: Sequence[Entry]) -> list[str]:
    """The cells up to the size; ``entries`` tell where the weights of a start come from."""
    sources = [_link(_pretraining(entry.pretrained), entry.pretrained)]
    if entry.start not in ("", entry.pretrained):
        sections = [other.section for other in entries if other.released == entry.start]
        sources.insert(0, _link(*sections[:1] or [_pretraining(entry.start)], entry.start))
    return [
        _link(entry.name.split("/")[1], f"configs/{entry.name}.py"),
        cost.method,
        cost.backbone,
        ", ".join(sources),
        entry.training,
        "x".join(map(str, cost.size)),
    ]


def number_cells(entry: Entry, cost: Cost, metrics: Sequence[str]) -> list[str]:
    """The cells after the size."""
    giga = cost.multiply_adds / 1e9
    return [
        *(str(entry.metrics.get(metric, NONE)) for metric in metrics),
        f"{cost.parameters / 1e6:.1f}",
        f"{giga:.1f}" if giga < 100 else f"{giga:.0f}",
        _link("weights", entry.released),
    ]


def _pretraining(url: str) -> str:
    file = url.rsplit("/", 1)[-1]
    return next((how for part, how in PRETRAINING.items() if part in file), file)


def _link(text: str, target: str) -> str:
    return f"[{text}]({target})" if target else NONE


def generate() -> str:
    """The page of the zoo as it is."""
    configs = {name: model_zoo.get_config(name) for name in names()}
    return page((read(name, cfg), count(cfg)) for name, cfg in configs.items())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with the page, write nothing")
    parser.add_argument("--output", type=Path, default=PAGE, help=f"default: {PAGE.name}")
    options = parser.parse_args()
    text = generate()
    if options.check:
        stale = not options.output.exists() or options.output.read_text("utf-8") != text
        print(f"{options.output} is {'stale' if stale else 'up to date'}")
        return int(stale)
    with replacing(options.output, "w") as file:
        file.write(text)
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
