#!/usr/bin/env python3
"""Make the panoptic and instance annotations of Cityscapes (fine).

Reads  cityscapes/gtFine/{train,val}/<city>/*_gtFine_instanceIds.png
Writes cityscapes/gtFine/cityscapes_panoptic_{train,val}/ and cityscapes_panoptic_{train,val}.json:
       the same as cityscapesscripts' createPanopticImgs, and
       cityscapes/gtFine/cityscapes_instance_{train,val}.json, COCO format, masks as run lengths
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.cityscapes import prepare_cityscapes_panoptic
from vitadapter_d2.data.preparing.command import prepare_command

main = prepare_command(
    __doc__,
    prepare_cityscapes_panoptic,
    published_images("cityscapes_fine_panoptic_{}", "train", "val"),
    what="images",
)

if __name__ == "__main__":
    sys.exit(main())
