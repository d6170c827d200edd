#!/usr/bin/env python3
"""Sort CHASE DB1 into training and validation images and label maps.

Reads  CHASE_DB1/Image_*.jpg and CHASE_DB1/Image_*_1stHO.png, as in CHASEDB1.zip
Writes CHASE_DB1/{images,annotations}/{training,validation}/, 0 = background, 1 = vessel
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.maps import prepare_chase_db1

main = prepare_command(
    __doc__, prepare_chase_db1, published_images("chase_db1_sem_seg_{}", "train", "val")
)

if __name__ == "__main__":
    sys.exit(main())
