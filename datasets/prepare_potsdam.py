#!/usr/bin/env python3
"""Cut the Potsdam tiles into crops of 512 pixels with label maps.

Reads  potsdam/2_Ortho_RGB/*_RGB.tif and potsdam/5_Labels_all_noBoundary/*_label_noBoundary.tif,
       or what mmsegmentation's converter made of them: potsdam/{img_dir,ann_dir}/{train,val}/
Writes potsdam/img_dir/{train,val}/ and potsdam/annotations_detectron2/{train,val}/,
       0 to 5, 255 = ignore
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.potsdam import prepare_potsdam

main = prepare_command(
    __doc__, prepare_potsdam, published_images("potsdam_sem_seg_{}", "train", "val")
)

if __name__ == "__main__":
    sys.exit(main())
