#!/usr/bin/env python3
"""Convert COCO-Stuff 164K's label maps to contiguous classes.

Reads  coco/stuffthingmaps/{train,val}2017/, 0 to 181, 255 = unlabelled
Writes coco/stuffthingmaps_detectron2/{train,val}2017/, 0 to 170, 255 = ignore
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.maps import prepare_coco_stuff_164k

main = prepare_command(
    __doc__,
    prepare_coco_stuff_164k,
    published_images("coco_2017_{}_stuff_164k_sem_seg", "train", "val"),
)

if __name__ == "__main__":
    sys.exit(main())
