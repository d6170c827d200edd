"""Prediction on single images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from omegaconf import DictConfig

from vitadapter_d2.engine.config import load_config
from vitadapter_d2.engine.evaluate import model_under_test
from vitadapter_d2.engine.weights import load_trained, trained_weights


class Predictor:
    """Called like Detectron2's ``DefaultPredictor``, built from a LazyConfig.

    Augmentations and channel order come from ``dataloader.test.mapper``, class names and colours
    from the test data set's metadata. ``model`` is the bare model; a call goes through ``tester``,
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
        self.cfg = config if isinstance(config, DictConfig) else load_config(config)
        weights = trained_weights(self.cfg, weights)
        self.device = torch.device(device or self.cfg.train.device)
        self.model = instantiate(self.cfg.model).to(self.device).eval()
        load_trained(self.model, weights, start=self.cfg.train.init_checkpoint)
        self.tester = model_under_test(self.cfg, self.model)
        mapper = self.cfg.dataloader.test.mapper
        self.aug = T.AugmentationList(list(instantiate(mapper.augmentations)))
        self.input_format: str = mapper.image_format
        names = self.cfg.dataloader.test.dataset.names
        self.metadata = MetadataCatalog.get(names if isinstance(names, str) else names[0])

    @torch.inference_mode()
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
        if not isinstance(original_image, np.ndarray) or original_image.dtype != np.uint8:
            kind = getattr(original_image, "dtype", type(original_image).__name__)
            raise ValueError(f"the image must be a uint8 array, got {kind}")
        if original_image.ndim != 3 or original_image.shape[2] != 3 or 0 in original_image.shape:
            raise ValueError(f"the image must be (H, W, 3) BGR, got shape {original_image.shape}")
        height, width = original_image.shape[:2]
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        augmented = T.AugInput(image)
        self.aug(augmented)
        tensor = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return self.tester([{"image": tensor, "height": height, "width": width}])[0]
