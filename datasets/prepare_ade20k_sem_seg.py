#!/usr/bin/env python3
"""Convert ADE20K's label maps to the values Detectron2 expects.

Reads  ADEChallengeData2016/annotations/{training,validation}/, 0 = other, 1 to 150
Writes ADEChallengeData2016/annotations_detectron2/{training,validation}/, 0 to 149, 255 = ignore
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.ade20k import prepare_ade20k_semantic
from vitadapter_d2.data.preparing.command import prepare_command

main = prepare_command(
    __doc__, prepare_ade20k_semantic, published_images("ade20k_sem_seg_{}", "train", "val")
)

if __name__ == "__main__":
    sys.exit(main())
