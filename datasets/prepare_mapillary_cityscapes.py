#!/usr/bin/env python3
"""Convert Mapillary Vistas 1.2 to the 19 classes of Cityscapes, to pre-train for Cityscapes.

Reads  mapillary_vistas/{training,validation}/labels/, 0 to 65
Writes mapillary_vistas/{training,validation}/labels_cityscapes/, 0 to 18, 255 = ignore
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.maps import prepare_mapillary

main = prepare_command(
    __doc__,
    prepare_mapillary,
    published_images("mapillary_vistas_cityscapes_sem_seg_{}", "train", "val"),
)

if __name__ == "__main__":
    sys.exit(main())
