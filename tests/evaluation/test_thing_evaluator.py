"""Box and mask AP of things that are not the first classes."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from vitadapter_d2.data import PanopticMapper
from vitadapter_d2.evaluation import ThingEvaluator

NAME, MIXED = "tiny_val_panoptic", "tiny_val_mixed"
ORDER = [8, 0, 1, 9, 2, 3, 4, 10, 5, 6, 7, 11]  # things 0 to 7, stuff 8 to 11


@pytest.fixture
def mixed(tiny_root):
    """The tiny set with stuff among its things; ``mixed[old class]`` is the new one."""
    new = {old: i for i, old in enumerate(ORDER)}
    metadata = MetadataCatalog.get(NAME)
    ids = metadata.thing_dataset_id_to_contiguous_id
    names = [metadata.stuff_classes[old] for old in ORDER]
    MetadataCatalog.get(MIXED).set(
        json_file=metadata.json_file,
        stuff_classes=names,
        thing_classes=names,
        thing_dataset_id_to_contiguous_id={id_: new[old] for id_, old in ids.items()},
    )
    yield torch.tensor([new[old] for old in range(12)])
    MetadataCatalog.remove(MIXED)


def predictions():
    """Inputs and outputs of every image: boxes and masks a little off, some wrong."""
    generator = torch.Generator().manual_seed(0)
    for record in DatasetCatalog.get(NAME):
        truth = PanopticMapper([], num_classes=12)(record)["instances"]
        truth = truth[truth.gt_classes < 8]
        found = Instances(truth.image_size)
        shift = int(torch.randint(0, 5, (), generator=generator))
        found.pred_masks = truth.gt_masks.tensor.roll(shift, 1)
        found.pred_boxes = Boxes(truth.gt_boxes.tensor + shift)
        is_wrong = torch.rand(len(truth), generator=generator) < 0.2
        found.pred_classes = torch.where(is_wrong, (truth.gt_classes + 1) % 8, truth.gt_classes)
        found.scores = torch.rand(len(truth), generator=generator)
        yield {"image_id": record["image_id"], "file_name": record["file_name"]}, found


def results(evaluator, renumber=None):
    evaluator.reset()
    for record, instances in predictions():
        if renumber is not None:
            instances.pred_classes = renumber[instances.pred_classes]
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()


def test_the_numbers_do_not_depend_on_where_the_things_are(mixed, tmp_path):
    expected = results(COCOEvaluator(NAME, distributed=False))
    assert 10 < expected["bbox"]["AP"] < 90 and 10 < expected["segm"]["AP"] < 90
    for name, renumber in ((NAME, None), (MIXED, mixed)):
        found = results(ThingEvaluator(name, distributed=False), renumber)
        for task in ("bbox", "segm"):
            assert set(found[task]) == set(expected[task])
            assert found[task] == pytest.approx(expected[task], nan_ok=True)


def test_detectron2s_evaluator_cannot_do_what_this_one_is_for(mixed):
    """When this fails, ``ThingEvaluator`` can go."""
    with pytest.raises(AssertionError):
        results(COCOEvaluator(MIXED, distributed=False), mixed)


def test_instances_of_stuff_are_left_out(mixed):
    evaluator = ThingEvaluator(MIXED, distributed=False)
    expected = results(evaluator, mixed)
    evaluator.reset()
    for record, instances in predictions():
        instances.pred_classes = mixed[instances.pred_classes]
        stuff = instances[:]
        stuff.pred_classes = torch.full_like(instances.pred_classes, 3)
        stuff.scores = torch.ones(len(stuff))
        evaluator.process([record], [{"instances": Instances.cat([stuff, instances])}])
    found = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert found[task] == pytest.approx(expected[task], nan_ok=True)


def test_what_the_model_gave_is_not_changed(mixed):
    evaluator = ThingEvaluator(MIXED, distributed=False)
    evaluator.reset()
    record, instances = next(predictions())
    instances.pred_classes = mixed[instances.pred_classes]
    before = instances.pred_classes.clone()
    evaluator.process([record], [{"instances": instances}])
    assert torch.equal(instances.pred_classes, before)


@pytest.mark.parametrize("wrong", [-1, 12])
def test_a_class_that_does_not_exist_is_named(mixed, wrong):
    evaluator = ThingEvaluator(MIXED, distributed=False)
    evaluator.reset()
    record, instances = next(predictions())
    instances.pred_classes[0] = wrong
    message = rf"{record['file_name']} has class {wrong}, expected one of 0 to 11"
    with pytest.raises(ValueError, match=message):
        evaluator.process([record], [{"instances": instances}])


def test_an_image_of_another_file_is_named(mixed):
    evaluator = ThingEvaluator(MIXED, distributed=False)
    evaluator.reset()
    record, instances = next(predictions())
    record["image_id"] = "ADE_val_00000001"
    with pytest.raises(ValueError, match=r"instances_val\.json has no image 'ADE_val_00000001'"):
        evaluator.process([record], [{"instances": instances}])
