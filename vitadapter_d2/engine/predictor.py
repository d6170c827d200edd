"""Prediction on images, one by one or in batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from omegaconf import DictConfig

from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.evaluate import loader_under_test, model_under_test
from vitadapter_d2.engine.own.classes import shown_metadata, with_classes_of
from vitadapter_d2.engine.training.ema import uses_averages
from vitadapter_d2.engine.weights import load_trained, trained_weights


class Predictor:
    """Called like Detectron2's ``DefaultPredictor``, built from a LazyConfig.

    Augmentations and channel order come from ``dataloader.test.mapper``, class names and colours
    from what the checkpoint remembers of its training on own data, else from the test data set's
    metadata. ``model`` is the bare model; a call goes through ``tester``,
    which is the model as ``test`` of the config wants it tested, or the same object without one.

    Args:
        config: a LazyConfig object, the path of a config file, or a name of the model zoo.
        weights: checkpoint file or URL; None takes ``train.init_checkpoint`` of the config. One of
            ``train.trained_only`` is put on top of that.
        device: where to run; None takes ``train.device`` of the config.

    Raises:
        ValueError: neither ``weights`` nor ``train.init_checkpoint`` is a trained model.
    """

    def __init__(
        self,
        config: DictConfig | str | Path,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        cfg = config if isinstance(config, DictConfig) else load_config(config)
        weights = trained_weights(cfg, weights)
        self.cfg = with_classes_of(cfg, weights)
        self.device = torch.device(device or self.cfg.train.device)
        self.model = instantiate(self.cfg.model).to(self.device).eval()
        load_trained(
            self.model,
            weights,
            start=self.cfg.train.init_checkpoint,
            use_averages=uses_averages(self.cfg),
        )
        self.tester = model_under_test(self.cfg, self.model)
        mapper = loader_under_test(self.cfg, self.tester).mapper
        self.aug = T.AugmentationList(list(instantiate(mapper.augmentations)))
        self.input_format: str = mapper.image_format
        self.metadata = shown_metadata(self.cfg)

    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Predicts one image.

        Args:
            original_image: ``(H, W, 3)`` uint8 in BGR order, as OpenCV reads it.

        Returns:
            Detectron2's output dict of one image: "sem_seg", "panoptic_seg", "instances",
            whichever the model gives, at the size of the image.

        Raises:
            ValueError: the image has another shape or type.
        """
        return self.predict([self.prepare(original_image)])[0]

    def batch(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predicts several images, those of one size class in one forward pass.

        A size class is a size of the network's input after padding. No image is padded further
        than it is alone, so results are those of single calls but for the order of floating-point
        sums, which depends on the batch. A model that the config tests by a tester (``test``) is
        given one image after the other by that.

        Args:
            images: each as in a call; of any sizes.

        Returns:
            The output dicts in the order of the images.

        Raises:
            ValueError: an image has another shape or type.
        """
        items = [self.prepare(image) for image in images]
        classes: dict[tuple[int, int], list[int]] = {}
        for index, item in enumerate(items):
            classes.setdefault(self.size_class(item), []).append(index)
        outputs: dict[int, dict[str, Any]] = {}
        for indices in classes.values():
            results = self.predict([items[index] for index in indices])
            outputs.update(zip(indices, results, strict=True))
        return [outputs[index] for index in range(len(items))]

    def prepare(self, original_image: np.ndarray) -> dict[str, Any]:
        """The model's input for an image: augmented ``image``, original ``height``, ``width``."""
        if not isinstance(original_image, np.ndarray) or original_image.dtype != np.uint8:
            kind = getattr(original_image, "dtype", type(original_image).__name__)
            none = "; cv2.imread gives None where it finds no picture"
            hint = none if original_image is None else ""
            raise ValueError(f"the image must be a uint8 array, got {kind}{hint}")
        if original_image.ndim != 3 or original_image.shape[2] != 3 or 0 in original_image.shape:
            raise ValueError(f"the image must be (H, W, 3) BGR, got shape {original_image.shape}")
        height, width = original_image.shape[:2]
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        augmented = T.AugInput(image)
        self.aug(augmented)
        tensor = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    def size_class(self, item: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of an input of :meth:`prepare` once the model has padded it alone."""
        divisor = getattr(getattr(self.model, "backbone", None), "size_divisibility", 0) or 1
        height, width = (-(-side // divisor) * divisor for side in item["image"].shape[-2:])
        return height, width

    @torch.no_grad()  # what comes of inference_mode cannot be changed in place
    def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Runs inputs of :meth:`prepare`, all in one batch; output dicts as of a call."""
        return self.tester(items)
