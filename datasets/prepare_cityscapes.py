#!/usr/bin/env python3
"""Make the label maps of Cityscapes (fine) that training and evaluation read.

Reads  cityscapes/gtFine/{train,val}/<city>/*_gtFine_labelIds.png, 0 to 33
Writes *_gtFine_labelTrainIds.png beside them, 0 to 18, 255 = ignore: the same files as
       cityscapesscripts' createTrainIdLabelImgs
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.maps import prepare_cityscapes

main = prepare_command(
    __doc__, prepare_cityscapes, published_images("cityscapes_fine_sem_seg_{}", "train", "val")
)

if __name__ == "__main__":
    sys.exit(main())
