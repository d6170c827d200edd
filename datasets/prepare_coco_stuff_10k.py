#!/usr/bin/env python3
"""Convert COCO-Stuff 10K, version 1.1, to label maps and link its images by split.

Reads  coco/coco_stuff_10k/{images/*.jpg, annotations/*.mat, imageLists/{train,test}.txt}
Writes coco/coco_stuff_10k/{images,annotations}_detectron2/{train,test}/, 0 to 170, 255 = ignore
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.maps import prepare_coco_stuff_10k

main = prepare_command(
    __doc__,
    prepare_coco_stuff_10k,
    published_images("coco_2017_{}_stuff_10k_sem_seg", "train", "test"),
)

if __name__ == "__main__":
    sys.exit(main())
