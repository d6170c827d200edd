#!/usr/bin/env python3
"""Convert COCO-Stuff 10K, version 1.1, to label maps and link its images by split.

Reads  coco/coco_stuff_10k/{images/*.jpg, annotations/*.mat, imageLists/{train,test}.txt}
Writes coco/coco_stuff_10k/{images,annotations}_detectron2/{train,test}/, 0 to 170, 255 = ignore
"""

import sys

from vitadapter_d2.data.prepare_command import prepare_command
from vitadapter_d2.data.prepare_maps import prepare_coco_stuff_10k

main = prepare_command(__doc__, prepare_coco_stuff_10k, {"train": 9000, "test": 1000})

if __name__ == "__main__":
    sys.exit(main())
