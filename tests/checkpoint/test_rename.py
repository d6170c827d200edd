import pytest
import torch

from vitadapter_d2.checkpoint.rename import rename_keys, with_prefix


def test_rules_apply_in_order():
    tensors = {"a.x": torch.zeros(1), "b.x": torch.ones(1)}
    renamed = rename_keys(tensors, [(r"^a\.", "c."), (r"\.x$", ".y")])
    assert list(renamed) == ["c.y", "b.y"]
    assert renamed["c.y"] is tensors["a.x"]


def test_two_keys_must_not_become_one():
    tensors = {"a": torch.zeros(1), "b": torch.ones(1)}
    with pytest.raises(ValueError, match="two keys become 'a'; the second is 'b'"):
        rename_keys(tensors, [("b", "a")])


def test_prefix_is_cut_off():
    tensors = {"backbone.up.weight": torch.zeros(1), "head.weight": torch.ones(1)}
    assert list(with_prefix(tensors, "backbone.")) == ["up.weight"]
