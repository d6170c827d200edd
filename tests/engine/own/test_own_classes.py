"""Heads of every family follow the number of classes; what a checkpoint says of them is data."""

import fnmatch
import zipfile

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from original_files import official_seg, randomized
from torch import nn

from vitadapter_d2 import model_zoo
from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.data.own import OwnClasses
from vitadapter_d2.data.own.classes import make_categories
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.engine.own.classes import (
    FITTING,
    RememberedClasses,
    classes_of_file,
    remembered_classes,
    set_classes,
    set_num_classes,
    shown_metadata,
    trained_kind,
    with_classes_of,
)

# One configuration of each family and data set, with the number of tensors that follow.
CONFIGS = {
    "coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco": 6,
    "coco/mask_rcnn_deit_vitdet_tiny_fpn_1x_coco": 6,
    "coco/cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco": 18,
    "coco/atss_deit_adapter_small_fpn_3x_coco": 2,
    "coco/gfl_deit_adapter_small_fpn_3x_coco": 2,
    "coco/sparse_rcnn_deit_adapter_small_fpn_3x_coco": 12,
    "coco/dino_4scale_deit_adapter_small_12ep_coco": 5,
    "coco/mask2former_deit_adapter_small_50ep_coco_panoptic": 3,
    "ade20k/mask2former_deit_adapter_small_512_160k_ade20k": 3,
    "ade20k/upernet_deit_adapter_tiny_512_160k_ade20k": 4,
    "ade20k/semantic_fpn_deit_adapter_tiny_512_80k_ade20k": 2,
    "ade20k/setr_pup_deit_base_512_160k_ade20k": 10,
}


def some_classes(kind, count, has_masks=True):
    things = [kind == "instances" or (kind == "panoptic" and i < 2) for i in range(count)]
    names = [f"{kind} {number}" for number in range(count)]
    return OwnClasses(kind, make_categories(range(5, 5 + count), names, things), has_masks)


def shapes_of(cfg):
    with torch.device("meta"):
        return {name: value.shape for name, value in instantiate(cfg.model).state_dict().items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_heads_of_every_family_follow_and_nothing_else(name):
    cfg = model_zoo.get_config(name)
    kind = trained_kind(cfg)
    published = shapes_of(cfg)
    set_classes(cfg, some_classes(kind, 7))
    own = shapes_of(cfg)
    changed = {key for key in own if own[key] != published[key]}
    assert own.keys() == published.keys()
    assert len(changed) == CONFIGS[name]
    assert not any(key.startswith("backbone.") for key in changed)
    set_classes(cfg, some_classes(kind, 11))
    again = shapes_of(cfg)
    assert changed == {key for key in own if own[key] != again[key]}


def test_the_configs_that_are_said_to_fit_do():
    for kind, told in FITTING.items():
        for pattern in told.split(", "):
            found = fnmatch.filter(model_zoo.names(), pattern)
            assert trained_kind(model_zoo.get_config(found[0])) == kind, pattern


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_boxes_alone_leave_out_the_masks(name):
    cfg = model_zoo.get_config(f"shapes/{name}_vit_adapter_shapes")
    with_masks = shapes_of(cfg)
    set_classes(cfg, some_classes("instances", 3, has_masks=False))
    without = shapes_of(cfg)
    assert {key for key in with_masks if "mask_head" in key} == with_masks.keys() - without.keys()
    assert cfg.dataloader.train.mapper.use_instance_mask is False


def test_models_of_masks_alone_refuse_boxes():
    cfg = model_zoo.get_config("shapes/mask2former_instance_vit_adapter_shapes")
    with pytest.raises(ConfigError, match="this config learns masks, the data have boxes"):
        set_classes(cfg, some_classes("instances", 3, has_masks=False))


def test_a_head_written_by_hand_follows_too():
    cfg = model_zoo.get_config("shapes/upernet_vit_adapter_shapes")
    del cfg.model.sem_seg_head.num_classes
    del cfg.model.auxiliary_head.num_classes
    set_num_classes(cfg.model, 4)
    assert cfg.model.sem_seg_head.num_classes == cfg.model.auxiliary_head.num_classes == 4
    assert "num_classes" not in cfg.model.backbone.vit.model or (
        cfg.model.backbone.vit.model.num_classes == 0
    )


def test_models_without_classes_and_numbers_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="nothing in this model takes num_classes"):
        set_num_classes(LazyCall(nn.Linear)(in_features=1, out_features=1), 3)
    with pytest.raises(ConfigError, match="at least 1 class, got 0"):
        set_num_classes(model_zoo.get_config("shapes/gfl_vit_adapter_shapes").model, 0)


def save(folder, **parts):
    Checkpointer(nn.Linear(2, 1), str(folder), **parts).save("weights")
    return folder / "weights.pth"


def test_a_file_gives_its_classes_to_a_config_but_not_to_the_callers(tmp_path):
    classes = some_classes("semantic", 3)
    file = save(tmp_path, classes=RememberedClasses(classes))
    assert classes_of_file(file) == classes
    cfg = model_zoo.get_config("shapes/upernet_vit_adapter_shapes")
    cfg.optimizer.params.model = model = nn.Linear(1, 1)  # as after a training
    own = with_classes_of(cfg, file)
    assert own.model.sem_seg_head.num_classes == 3 and cfg.model.sem_seg_head.num_classes == 12
    assert own.optimizer.params.model is model
    assert shown_metadata(own).stuff_classes == classes.names
    assert shown_metadata(cfg).stuff_classes != classes.names


def test_classes_are_found_whatever_the_container(tmp_path):
    classes = some_classes("semantic", 3)
    content = {
        "model": {"weight": torch.ones(2)},
        "best": np.float64(0.5),  # which torch alone refuses
        "classes": classes.to_dict(),
    }
    torch.save(content, tmp_path / "scalar.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(tmp_path / "scalar.pth", "scalar.pth")
    for name in ("scalar.pth", "old.pth", "archive.zip"):
        assert classes_of_file(tmp_path / name) == classes, name


def test_a_file_without_classes_changes_nothing(tmp_path):
    cfg = model_zoo.get_config("shapes/upernet_vit_adapter_shapes")
    assert with_classes_of(cfg, save(tmp_path)) is cfg
    assert remembered_classes(cfg) == {}
    (tmp_path / "damaged.pth").write_bytes(b"PK not a checkpoint")
    assert classes_of_file(tmp_path / "damaged.pth") is None  # loading it says what is wrong


def test_classes_of_another_kind_name_the_file(tmp_path):
    file = save(tmp_path, classes=RememberedClasses(some_classes("instances", 3)))
    cfg = model_zoo.get_config("shapes/upernet_vit_adapter_shapes")
    with pytest.raises(ConfigError, match="weights.pth was trained on .*, this config learns from"):
        with_classes_of(cfg, file)


@pytest.mark.parametrize("names", [["a", 1, "b"], "abc", {"a": 1}, [["x"] * 3]])
def test_nothing_in_a_file_is_believed(names, tmp_path):
    content = {**some_classes("instances", 3).to_dict(), "thing_classes": names}
    torch.save({"model": {}, "classes": content}, tmp_path / "evil.pth")
    if names == ["a", 1, "b"]:
        assert classes_of_file(tmp_path / "evil.pth").names == ["a", "1", "b"]
    elif names == "abc":
        assert classes_of_file(tmp_path / "evil.pth").names == ["a", "b", "c"]
    else:
        with pytest.raises(ValueError, match=r"the classes in .*evil.pth are damaged"):
            classes_of_file(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "class 2 is 'c' here and 'nothing' there"),
        (["a", "c", "b"], "class 1 is 'b' here and 'c' there"),
    ],
)
def test_a_run_goes_on_with_its_own_classes_only(names, message):
    def of(names):
        things = [True] * len(names)
        return OwnClasses("instances", make_categories(range(len(names)), names, things))

    here = RememberedClasses(of(["a", "b", "c"]))
    here.load_state_dict(of(["a", "b", "c"]).to_dict())
    with pytest.raises(ConfigError, match=message):
        here.load_state_dict(of(names).to_dict())


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A model of 12 classes as ViT-Adapter's segmentation code saves it, and its tensors."""
    torch.manual_seed(0)
    cfg = model_zoo.get_config("shapes/mask2former_vit_adapter_quickstart")
    state = randomized(instantiate(cfg.model)).state_dict()
    file = tmp_path_factory.mktemp("released") / "released.pth"
    torch.save(official_seg(state), file)
    return file, state


def own_model():
    cfg = model_zoo.get_config("shapes/mask2former_vit_adapter_quickstart")
    set_classes(cfg, some_classes("panoptic", 5))
    return instantiate(cfg.model)


def test_a_released_model_starts_one_of_other_classes(released, caplog):
    file, state = released
    model = own_model()
    with pytest.raises(ValueError, match="of another size than the model"):
        Checkpointer(model).load(str(file))
    with caplog.at_level("WARNING"):
        Checkpointer(model, other_classes=True).load(str(file))
    (line,) = [line for line in caplog.messages if "start fresh" in line]
    assert line.startswith("2 tensors of another size start fresh: sem_seg_head.predictor.class_")
    assert "(13, 64) in the file, (6, 64) in the model" in line
    same = [name for name, value in model.state_dict().items() if value.equal(state[name])]
    assert len(same) == len(state) - 3  # the weight of "no object" belongs to no file


def test_a_released_model_that_lacks_a_part_is_refused(released, tmp_path):
    content = torch.load(released[0], weights_only=True)
    lacking = next(name for name in content["state_dict"] if "pixel_decoder" in name)
    del content["state_dict"][lacking]
    torch.save(content, tmp_path / "lacking.pth")
    with pytest.raises(ValueError, match="do not agree: 1 missing in the file"):
        Checkpointer(own_model(), other_classes=True).load(str(tmp_path / "lacking.pth"))
