#!/usr/bin/env python3
"""Make COCO's semantic label maps (133 classes) out of its panoptic annotations.

Reads  coco/annotations/panoptic_{train,val}2017.json and coco/panoptic_{train,val}2017/
Writes coco/panoptic_semseg_{train,val}2017/, values 0 to 132, 255 where there is no segment
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.maps import prepare_coco_panoptic

main = prepare_command(
    __doc__, prepare_coco_panoptic, published_images("coco_2017_{}_panoptic", "val", "train")
)

if __name__ == "__main__":
    sys.exit(main())
