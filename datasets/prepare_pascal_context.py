#!/usr/bin/env python3
"""Make the label maps of Pascal Context with 59 classes.

Reads  VOC2010/trainval_merged.json, or what mmsegmentation's converter made of it:
       VOC2010/SegmentationClassContext/, 0 to 59, and VOC2010/ImageSets/SegmentationContext/
Writes VOC2010/annotations_detectron2/{train,val}/, 0 to 58, 255 = ignore
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.pascal_context import prepare_pascal_context

main = prepare_command(
    __doc__,
    prepare_pascal_context,
    published_images("pascal_context_59_sem_seg_{}", "train", "val"),
)

if __name__ == "__main__":
    sys.exit(main())
