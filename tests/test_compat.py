from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList

from vitadapter_d2.compat import image_list_from_tensors, supported_kwargs


class _Backbone(Backbone):
    padding_constraints = {"square_size": 0}

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self) -> None:
        raise NotImplementedError


def _like_main(
    tensors: list[torch.Tensor],
    size_divisibility: int = 0,
    pad_value: float = 0.0,
    padding_constraints: dict[str, int] | None = None,
) -> tuple[Any, ...]:
    return tensors, size_divisibility, padding_constraints


def test_supported_kwargs_drops_what_the_function_does_not_know() -> None:
    def old(x: int, *, shuffle: bool) -> None: ...

    def new(x: int, **kwargs: Any) -> None: ...

    assert supported_kwargs(old, shuffle=True, prefetch_factor=2) == {"shuffle": True}
    assert supported_kwargs(new, shuffle=True, prefetch_factor=2) == {
        "shuffle": True,
        "prefetch_factor": 2,
    }


def test_images_are_padded_right_and_bottom_to_the_divisibility_of_the_backbone() -> None:
    images = [torch.ones(3, 33, 20), torch.ones(3, 10, 40)]
    batch = image_list_from_tensors(images, _Backbone())
    assert batch.tensor.shape == (2, 3, 64, 64)
    assert batch.image_sizes == [(33, 20), (10, 40)]
    for padded, image in zip(batch.tensor, images, strict=True):
        h, w = image.shape[1:]
        torch.testing.assert_close(padded[:, :h, :w], image)
        assert padded.sum() == image.sum()


def test_padding_constraints_reach_a_detectron2_that_knows_them(monkeypatch: Any) -> None:
    monkeypatch.setattr(ImageList, "from_tensors", staticmethod(_like_main))
    images = [torch.ones(3, 2, 2)]
    assert image_list_from_tensors(images, _Backbone()) == (images, 32, {"square_size": 0})


def test_a_backbone_of_v06_has_no_padding_constraints(monkeypatch: Any) -> None:
    monkeypatch.setattr(ImageList, "from_tensors", staticmethod(_like_main))
    monkeypatch.delattr(_Backbone, "padding_constraints")
    images = [torch.ones(3, 2, 2)]
    assert image_list_from_tensors(images, _Backbone()) == (images, 32, {})
