"""Training on a user's own data as tools/train_net.py does it, and predicting with the result."""

import re
import runpy
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import default_argument_parser
from omegaconf import ListConfig
from own_folders import (
    NAMES,
    THINGS,
    as_boxes,
    as_polygons,
    coco,
    label_maps,
    make_shapes,
    read,
    roboflow,
    write,
)
from PIL import Image

from vitadapter_d2 import Predictor, model_zoo
from vitadapter_d2.data.own import OwnSource
from vitadapter_d2.engine.config.calls import check_calls
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.engine.own.data import (
    add_own_data_flags,
    apply_own_data,
    find_own_data,
    use_own_data,
)
from vitadapter_d2.engine.train import do_train

TOOL = Path(__file__).resolve().parents[3] / "tools" / "train_net.py"
# A small run of any config of shapes; fields that a config lacks are no error of this test's.
SHORT = (
    "train.device=cpu",
    "train.max_iter=2",
    "train.eval_period=0",
    "train.log_period=1",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """30 images of 64 pixels."""
    return make_shapes(tmp_path_factory.mktemp("own") / "shapes", train=24, val=6)


@pytest.fixture(scope="session")
def folders(shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp("mine")
    return {
        "masks": roboflow(shapes, root / "masks"),
        "polygons": coco(shapes, root / "polygons", as_polygons),
        "boxes": roboflow(shapes, root / "boxes", as_boxes),
        "labels": label_maps(shapes, root / "labels"),
        "panoptic": coco(shapes, root / "panoptic", kinds=("panoptic",)),
    }


@pytest.fixture(scope="session")
def tool():
    return runpy.run_path(str(TOOL))


def arguments(config, output, *flags, overrides=()):
    parser = default_argument_parser()
    add_own_data_flags(parser)
    name = f"shapes/{config}_vit_adapter_shapes".replace("mask2former_vit_adapter_shapes", QUICK)
    told = ["--config-file", name, *map(str, flags)]
    return parser.parse_args([*told, *SHORT, f"train.output_dir={output}", *overrides])


QUICK = "mask2former_vit_adapter_quickstart"


def photo(folder):
    return cv2.imread(str(next((folder / "valid").iterdir())))


@pytest.fixture(scope="module")
def mask_rcnn(tool, folders, tmp_path_factory):
    """Output folder of a run of the whole tool."""
    output = tmp_path_factory.mktemp("output")
    tool["main"](arguments("mask_rcnn", output, "--data", folders["masks"]))
    return output


def test_the_tool_trains_and_tells_what_it_found(mask_rcnn):
    log = (mask_rcnn / "log.txt").read_text()
    assert "_annotations.coco.json and valid/_annotations.coco.json; 5 classes: bolt, hex" in log
    assert re.search(r"train: 24 images, \d+ objects with masks; val: 6 images, \d+ objects", log)
    assert "goes over the 24 training images 0.2 times" in log
    assert (mask_rcnn / "model_final.pth").is_file()


def test_the_checkpoint_remembers_names_and_the_predictor_knows_them(mask_rcnn):
    content = torch.load(mask_rcnn / "model_final.pth", weights_only=True)
    assert content["classes"]["thing_classes"] == [*THINGS.values()]
    assert content["classes"]["ids"] == [*THINGS]
    predictor = Predictor(
        "shapes/mask_rcnn_vit_adapter_shapes", mask_rcnn / "model_final.pth", "cpu"
    )
    assert predictor.metadata.thing_classes == [*THINGS.values()]
    assert predictor.model.roi_heads.box_predictor.cls_score.out_features == 6
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    assert predictor(image)["instances"].image_size == (70, 50)
    # The config that a caller holds stays one of the shapes.
    assert Predictor(predictor.cfg, mask_rcnn / "model_final.pth").metadata is predictor.metadata


def test_a_saved_config_predicts_too(mask_rcnn):
    predictor = Predictor(mask_rcnn / "config.yaml", mask_rcnn / "model_final.pth", "cpu")
    assert predictor.metadata.thing_classes == [*THINGS.values()]


def test_evaluation_alone_needs_the_same_classes(tool, mask_rcnn, folders, tmp_path):
    weights = f"train.init_checkpoint={mask_rcnn / 'model_final.pth'}"
    args = arguments(
        "mask_rcnn", tmp_path, "--data", folders["polygons"], "--eval-only", overrides=[weights]
    )
    results = tool["evaluate"](tool["read"](args), args.own_data)
    assert set(results) >= {"bbox", "segm"}
    other = roboflow_with(folders["masks"], tmp_path / "other", "bolt", "rivet")
    args = arguments("mask_rcnn", tmp_path, "--data", other, "--eval-only", overrides=[weights])
    cfg = tool["read"](args)
    with pytest.raises(ConfigError, match=r"class 0 is 'rivet' here and 'bolt' there"):
        tool["evaluate"](cfg, args.own_data)


def roboflow_with(folder, root, old, new):
    for part in ("train", "valid"):
        content = read(folder / part / "_annotations.coco.json")
        for category in content["categories"]:
            category["name"] = category["name"].replace(old, new)
        write(root / part / "_annotations.coco.json", content)
        for image in content["images"]:
            (root / part / image["file_name"]).symlink_to(folder / part / image["file_name"])
    return root


def test_resuming_on_other_classes_is_refused(tool, mask_rcnn, folders, tmp_path):
    other = roboflow_with(folders["masks"], tmp_path / "other", "spring", "rivet")
    args = arguments("mask_rcnn", mask_rcnn, "--data", other, "--resume")
    with pytest.raises(ConfigError, match=r"class 3 is 'rivet' here and 'spring' there"):
        tool["read"](args)  # before anything is written


def test_a_head_of_another_size_starts_fresh_and_is_listed(tool, mask_rcnn, folders, tmp_path):
    fewer = tmp_path / "fewer"
    for part in ("train", "valid"):
        content = read(folders["masks"] / part / "_annotations.coco.json")
        for annotation in content["annotations"]:
            annotation["category_id"] = 3
        content["categories"] = [{"id": 3, "name": "part"}]
        write(fewer / part / "_annotations.coco.json", content)
    args = arguments(
        "mask_rcnn",
        tmp_path,
        *("--train-json", fewer / "train/_annotations.coco.json"),
        *("--val-json", fewer / "valid/_annotations.coco.json"),
        *("--images", folders["masks"] / "train"),
        *("--val-images", folders["masks"] / "valid"),
        overrides=[f"train.init_checkpoint={mask_rcnn / 'model_final.pth'}", "train.max_iter=1"],
    )
    tool["main"](args)
    log = (tmp_path / "log.txt").read_text()
    (line,) = [line for line in log.splitlines() if "start fresh" in line]
    assert "6 tensors of another size start fresh: roi_heads.box_predictor.cls_score.weight" in line
    assert "(6, 256) in the file, (2, 256) in the model" in line


FAMILIES = {
    "cascade_mask_rcnn": "polygons",
    "atss": "boxes",
    "gfl": "masks",
    "sparse_rcnn": "boxes",
    "dino": "polygons",
    "upernet": "labels",
    "semantic_fpn": "panoptic",
    "mask2former": "panoptic",
    "mask2former_instance": "masks",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_own_classes_and_predicts_them(family, tool, folders, tmp_path):
    pictures = 0 if family == "mask2former" else 1  # the place among the evaluators
    fast = ["train.max_iter=1", f"dataloader.evaluator.{pictures}.max_images=1"]
    if "mask_rcnn" in family:
        fast.append("model.proposal_generator.post_nms_topk=[20,20]")
    args = arguments(family, tmp_path, "--data", folders[FAMILIES[family]], overrides=fast)
    results = do_train(tool["read"](args))
    predictor = Predictor(args.config_file, tmp_path / "model_final.pth", "cpu")
    outputs = predictor(photo(folders["masks"]))
    if "sem_seg" in outputs:
        assert predictor.metadata.stuff_classes == NAMES
        assert len(outputs["sem_seg"]) == len(NAMES)
        assert f"IoU-{NAMES[-1]}" in results["sem_seg"]
    else:
        assert predictor.metadata.thing_classes == [*THINGS.values()]
        assert all(label < 5 for label in outputs["instances"].pred_classes.tolist())
        assert "bbox" in results
    if family == "mask2former":
        assert set(results) >= {"panoptic_seg", "bbox", "segm", "sem_seg"}
        assert all(s["category_id"] < len(NAMES) for s in outputs["panoptic_seg"][1])


def test_boxes_alone_make_mask_rcnn_a_faster_rcnn(tool, folders, tmp_path):
    args = arguments("mask_rcnn", tmp_path, "--data", folders["boxes"])
    results = do_train(tool["read"](args))
    assert "bbox" in results and "segm" not in results
    predictor = Predictor(args.config_file, tmp_path / "model_final.pth", "cpu")
    assert not predictor(photo(folders["masks"]))["instances"].has("pred_masks")
    assert not any("mask" in name for name, _ in predictor.model.named_parameters())


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        ("mask2former", "boxes", r"has objects, .* learns from panoptic segments; .*mask_rcnn"),
        ("upernet", "masks", r"has objects, this config learns from label maps"),
        (
            "mask_rcnn",
            "labels",
            r"has label maps, .* from objects; configs that fit: shapes/upernet",
        ),
        ("htcpp", "masks", "HTC learns from label maps beside the objects"),
    ],
)
def test_data_of_another_kind_say_which_configs_fit(config, data, message, folders, tmp_path):
    args = arguments(config, tmp_path, "--data", folders[data])
    cfg = model_zoo.get_config(args.config_file)
    with pytest.raises(ConfigError, match=message):
        use_own_data(cfg, args)


def test_without_flags_nothing_changes(tmp_path):
    args = arguments("mask_rcnn", tmp_path)
    cfg = model_zoo.get_config(args.config_file)
    before = str(cfg)
    assert use_own_data(cfg, args) is None
    assert str(cfg) == before


def test_found_once_is_applied_without_looking_again(folders, tmp_path):
    args = arguments("mask_rcnn", tmp_path, "--data", folders["masks"])
    use_own_data(model_zoo.get_config(args.config_file), args)
    args.data = tmp_path / "gone"
    cfg = model_zoo.get_config(args.config_file)
    use_own_data(cfg, args)
    assert cfg.model.roi_heads.num_classes == 5


def test_python_code_does_what_the_flags_do(folders, tmp_path):
    cfg = model_zoo.get_config("shapes/mask_rcnn_vit_adapter_shapes")
    cfg.train.output_dir = str(tmp_path)
    own = find_own_data(cfg, OwnSource(folder=folders["polygons"]))
    apply_own_data(cfg, own)
    names = own.register()
    assert cfg.dataloader.train.dataset.names == names["train"]
    assert [e.dataset_name for e in cfg.dataloader.evaluator] == [names["val"]] * 2
    assert not list(folders["polygons"].rglob("*own_data*"))


@pytest.mark.parametrize(
    ("config", "data"),
    [
        ("cityscapes/mask2former_deit_adapter_small_512x1024_90k_cityscapes_instance", "masks"),
        ("coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco", "boxes"),
        ("coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco", "polygons"),
        ("coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco", "masks"),
        ("ade20k/upernet_deit_adapter_tiny_512_160k_ade20k", "labels"),
        ("ade20k/semantic_fpn_deit_adapter_tiny_512_80k_ade20k", "panoptic"),
        ("coco/mask2former_deit_adapter_small_50ep_coco_panoptic", "panoptic"),
    ],
)
def test_published_configs_load_and_evaluate_own_data(config, data, folders, tmp_path):
    """The pipelines as they are published; the models are too large for a test."""
    cfg = model_zoo.get_config(config)
    cfg.train.output_dir = str(tmp_path)
    apply_own_data(cfg, find_own_data(cfg, OwnSource(folder=folders[data])))
    check_calls(cfg)
    record = instantiate(cfg.dataloader.train.dataset)[0]
    sample = instantiate(cfg.dataloader.train.mapper)(record)
    classes = sample["sem_seg"] if "sem_seg" in sample else sample["instances"].gt_classes
    assert set(classes.unique().tolist()) <= {*range(len(cfg.train.classes.ids)), 255}
    if data in ("polygons", "masks"):
        assert len(sample["instances"].gt_masks) == len(classes)
    assert len(instantiate(cfg.dataloader.test)) == 6
    evaluators = instantiate(cfg.dataloader.evaluator)
    for evaluator in evaluators if isinstance(evaluators, list | ListConfig) else [evaluators]:
        evaluator.reset()
    assert "Cityscapes" not in str(evaluators)


def test_palettes_are_read_as_class_numbers(folders, tmp_path):
    """As PASCAL VOC and labelme store them."""
    root = tmp_path / "palettes"
    shutil.copytree(folders["labels"], root)
    for file in (root / "labels").glob("*/*.png"):
        with Image.open(file) as image:
            picture = Image.fromarray(np.asarray(image), "P")
        picture.putpalette([value % 256 for value in range(3 * 256)])
        picture.save(file)
    cfg = model_zoo.get_config("shapes/upernet_vit_adapter_shapes")
    cfg.train.output_dir = str(tmp_path)
    apply_own_data(cfg, find_own_data(cfg, OwnSource(folder=root)))
    record = instantiate(cfg.dataloader.train.dataset)[0]
    sample = instantiate(cfg.dataloader.train.mapper)(record)
    assert sample["sem_seg"].max() < 7
    evaluator = instantiate(cfg.dataloader.evaluator)[0]
    (record, *_) = instantiate(cfg.dataloader.test.dataset)
    labels = cv2.imread(str(folders["labels"] / "labels/val" / Path(record["file_name"]).name), 0)
    evaluator.process([record], [{"sem_seg": torch.from_numpy(labels).long()}])
    assert evaluator.evaluate()["sem_seg"]["aAcc"] == 100


def test_segments_without_things_are_evaluated_without_objects(folders, tmp_path):
    stuff = tmp_path / "stuff"
    for part in ("train2017", "val2017"):
        content = read(folders["panoptic"] / f"annotations/panoptic_{part}.json")
        for category in content["categories"]:
            category["isthing"] = 0
        write(stuff / f"annotations/panoptic_{part}.json", content)
        for name in (part, f"annotations/panoptic_{part}"):
            (stuff / name).symlink_to(folders["panoptic"] / name)
    cfg = model_zoo.get_config("shapes/mask2former_vit_adapter_quickstart")
    cfg.train.output_dir = str(tmp_path)
    apply_own_data(cfg, find_own_data(cfg, OwnSource(folder=stuff)))
    names = [str(e._target_) for e in cfg.dataloader.evaluator]
    assert len(names) == 3 and not any("COCOEvaluator" in name for name in names)
