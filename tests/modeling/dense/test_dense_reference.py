"""Parity with the official heads and losses, by cases with random weights."""

import pytest
import torch
from dense_models import Maps, detector, item

from vitadapter_d2.checkpoint.detection import convert_dense_head

pytestmark = pytest.mark.weights

KINDS = ("atss", "gfl")


@pytest.fixture(params=KINDS)
def loaded(request, reference_case):
    """A case and its model."""
    case = reference_case(f"{request.param}_head")
    model = detector(request.param, Maps(case.input), channels=32).eval()
    model.head.load_state_dict(convert_dense_head(case.state_dict))
    return case, model


def new_name(name):
    return next(iter(convert_dense_head({name: torch.zeros(1)})))


def test_head(loaded):
    case, model = loaded
    head = model.head
    assert sum(parameter.numel() for parameter in head.parameters()) == case.n_params
    outputs = [level for levels in head(case.input) for level in levels]
    case.check_outputs(outputs)
    case.check_gradients(outputs, head, new_name)
    parameters = dict(head.named_parameters())
    assert len(case.grad_abs_sum) == len(parameters)
    for name, expected in case.grad_abs_sum.items():
        total = parameters[new_name(name)].grad.abs().sum().item()
        assert total == pytest.approx(expected, rel=1e-3), name


def test_losses(loaded):
    case, model = loaded
    batch = [
        item(*case.img_hw, boxes.tolist(), labels.tolist())
        for boxes, labels in zip(case.gt_boxes, case.gt_labels, strict=True)
    ]
    losses = {name: loss.item() for name, loss in model.train()(batch).items()}
    expected = {name: sum(levels) for name, levels in case.losses.items()}
    expected["loss_box_reg"] = expected.pop("loss_bbox")
    assert losses == pytest.approx(expected, rel=1e-4)
