import pytest
import torch
from dino_parts import LAYERS, C, K, disturb, make_boxes, make_decoder, make_levels
from torch import nn

from vitadapter_d2.modeling.dino.coordinates import encode_coordinates

SIZES, PADDED = [(96, 160), (64, 96)], (96, 160)


def make_case(num_queries=6):
    levels = make_levels(SIZES, PADDED)
    memory = torch.randn(2, levels.centers.shape[1], C)
    return torch.randn(2, num_queries, C), make_boxes(2, num_queries), memory, levels


def refined_by_the_paper(decoder, queries, boxes, memory, levels, looks_twice):
    """Sec. 3.5 in its own words: ``b`` without graph, ``b_prime`` with it."""

    def update(box, offset):
        return (torch.logit(box, eps=1e-3) + offset).sigmoid()

    b, b_prime, predicted = boxes, boxes, []
    for layer in decoder.layers:
        x, y, w, h = (encode_coordinates(b[..., [i]], C // 2, 10000.0) for i in range(4))
        positions = decoder.position_head(torch.cat((y, x, w, h), dim=-1))
        queries = layer(queries, positions, levels.in_batch(b), memory, levels, None)
        offset = decoder.bbox_embed(decoder.norm(queries))
        predicted.append(update(b_prime if looks_twice else b, offset))
        b_prime = update(b, decoder.bbox_embed(queries))
        b = b_prime.detach()
    return torch.stack(predicted)


@pytest.mark.parametrize("looks_twice", [True, False])
def test_a_layer_learns_from_its_own_and_the_next_prediction(looks_twice):
    decoder = disturb(make_decoder())
    queries, boxes, memory, levels = make_case()
    weights = torch.randn(LAYERS, 2, 6, 4)

    def gradients(predicted):
        loss = (predicted * weights).sum()
        return torch.autograd.grad(loss, list(decoder.bbox_embed.parameters()))

    expected = refined_by_the_paper(decoder, queries, boxes, memory, levels, looks_twice)
    actual = decoder(queries, boxes, memory, levels).boxes
    torch.testing.assert_close(actual, expected)  # both ways give the same boxes
    same = [
        torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(gradients(actual), gradients(expected), strict=True)
    ]
    assert all(same) if looks_twice else not any(same)


def test_references_do_not_carry_a_gradient_to_the_next_layer():
    decoder = disturb(make_decoder())
    queries, boxes, memory, levels = make_case()
    boxes.requires_grad_()
    predicted = decoder(queries, boxes, memory, levels).boxes
    for layer in range(LAYERS):
        (gradient,) = torch.autograd.grad(predicted[layer].sum(), boxes, retain_graph=True)
        assert gradient.any() == (layer == 0)


def test_classes_come_from_one_head_for_all_layers():
    decoder = disturb(make_decoder())
    case = make_case()
    logits = decoder(*case).logits
    assert logits.shape == (LAYERS, 2, 6, K)
    with torch.no_grad():
        decoder.class_embed.bias += 1
    torch.testing.assert_close(decoder(*case).logits, logits + 1)


def test_self_attention_is_that_of_pytorch():
    decoder = disturb(make_decoder())
    queries, boxes, memory, levels = make_case()
    layer = decoder.layers[0]
    reference = nn.MultiheadAttention(C, 4, batch_first=True)
    reference.load_state_dict(layer.self_attn.state_dict())
    positions, allowed = torch.randn_like(queries), torch.rand(6, 6) > 0.3
    allowed.fill_diagonal_(True)
    placed = queries + positions
    attended = reference(placed, placed, queries, attn_mask=~allowed)[0]
    expected = layer.self_norm(queries + attended)
    sampled = layer.cross_attn(
        expected + positions, levels.in_batch(boxes), memory, levels.shapes, levels.padding
    )
    expected = layer.ffn(layer.cross_norm(expected + sampled))
    actual = layer(
        queries, positions, levels.in_batch(boxes), memory, levels, allowed.expand(2, -1, -1)
    )
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_an_image_is_decoded_as_if_it_were_alone():
    decoder = disturb(make_decoder())
    queries, boxes, memory, levels = make_case()
    together = decoder(queries, boxes, memory, levels)
    alone = make_levels(SIZES[1:], SIZES[1])
    alone = decoder(queries[1:], boxes[1:], memory[1:, ~levels.padding[1]], alone)
    torch.testing.assert_close(together.boxes[:, 1:], alone.boxes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.logits[:, 1:], alone.logits, atol=1e-5, rtol=1e-5)


def test_boxes_start_where_they_are_and_classes_improbable():
    queries, boxes, memory, levels = make_case()
    prediction = make_decoder()(queries, boxes, memory, levels)
    torch.testing.assert_close(prediction.boxes, boxes.expand(LAYERS, -1, -1, -1))
    assert prediction.logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.01)
