"""A model of one convolution that knows the answers, for runs on several processes."""

import os
import signal

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from panopticapi.utils import rgb2id
from torch import nn


class LaunchedModel(nn.Module):
    """Learns the mean colour; finds what the annotations say, moved by a few pixels.

    Args:
        num_classes: of the semantic output.
        kill_at: the iteration in which the second process is killed, the first time it gets there.
    """

    def __init__(self, num_classes: int, kill_at: int = -1) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2))
        self.num_classes, self.kill_at = num_classes, kill_at

    def forward(self, batch):
        if not self.training:
            return [self.found(record) for record in batch]
        is_first_time = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if get_event_storage().iter == self.kill_at and is_first_time:
            comm.synchronize()  # the checkpoint of the iteration before is written
            if comm.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        images = torch.stack([record["image"] / 255 for record in batch])
        return {"loss": (self.layer(images) * images[:, :2]).mean()}

    def found(self, record):
        ids = rgb2id(read_image(record["pan_seg_file_name"], "RGB"))
        ids = torch.from_numpy(np.roll(ids, record["image_id"] % 4, 1).astype(np.int64))
        segments = record["segments_info"]
        scores = torch.zeros(self.num_classes, *ids.shape)
        things = []
        for segment in segments:
            mask = ids == segment["id"]
            scores[segment["category_id"]][mask] = 1.0
            if segment["isthing"] and mask.any():
                things.append((mask, segment["category_id"]))
        masks = BitMasks(torch.stack([mask for mask, _ in things]))
        instances = Instances(
            tuple(ids.shape),
            pred_masks=masks.tensor,
            pred_boxes=masks.get_bounding_boxes(),
            pred_classes=torch.tensor([index for _, index in things]),
            scores=torch.linspace(0.9, 0.5, len(things)),
        )
        return {"panoptic_seg": (ids, segments), "instances": instances, "sem_seg": scores}
