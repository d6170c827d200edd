import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from vitadapter_d2.inference.selection import class_names, select
from vitadapter_d2.inference.semantic import SemanticLabels

METADATA = Metadata(
    name="selection", thing_classes=["cat", "dog"], stuff_classes=["sky", "grass", "dog"]
)


@pytest.fixture
def prediction():
    instances = Instances(
        (2, 3),
        pred_boxes=Boxes(torch.zeros(3, 4)),
        scores=torch.tensor([0.9, 0.5, 0.2]),
        pred_classes=torch.tensor([1, 0, 1]),
    )
    ids = torch.tensor([[1, 2, 3], [0, 2, 3]], dtype=torch.int32)
    infos = [
        {"id": 1, "isthing": True, "category_id": 1},
        {"id": 2, "isthing": False, "category_id": 1},
        {"id": 3, "isthing": False, "category_id": 0},
    ]
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    scores = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float()
    return {"instances": instances, "panoptic_seg": (ids, infos), "sem_seg": scores, "more": 1}


def test_the_threshold_counts_for_instances_alone(prediction):
    selected = select(prediction, METADATA, threshold=0.5)
    assert selected["instances"].scores.tolist() == pytest.approx([0.9, 0.5])
    assert len(selected["panoptic_seg"][1]) == 3
    assert selected["more"] == 1


def test_classes_are_chosen_by_name_in_every_output(prediction):
    selected = select(prediction, METADATA, classes={"dog", "grass"})
    assert selected["instances"].scores.tolist() == pytest.approx([0.9, 0.2])
    ids, infos = selected["panoptic_seg"]
    assert ids.tolist() == [[1, 2, 0], [0, 2, 0]]
    assert ids.dtype == torch.int32
    assert [info["id"] for info in infos] == [1, 2]
    assert selected["sem_seg"].labels.tolist() == [[3, 1, 2], [2, 1, 3]]


def test_all_classes_are_kept_without_a_choice(prediction):
    selected = select(prediction, METADATA)
    assert len(selected["instances"]) == 3
    assert selected["panoptic_seg"][0] is prediction["panoptic_seg"][0]
    assert selected["sem_seg"].labels.equal(prediction["sem_seg"].argmax(0))


def test_labels_without_scores_are_taken_and_selecting_twice_changes_nothing():
    labels = SemanticLabels(torch.tensor([[0, 2]]), 3)
    once = select({"sem_seg": labels}, METADATA, classes={"sky"})
    assert once["sem_seg"].labels.tolist() == [[0, 3]]
    twice = select(once, METADATA, classes={"sky"})
    assert twice["sem_seg"].labels.tolist() == [[0, 3]]
    assert twice["sem_seg"].shape == (3, 1, 2)


def test_names_are_given_once():
    assert class_names(METADATA) == ["cat", "dog", "sky", "grass"]
    assert class_names(Metadata(name="nameless")) == []
