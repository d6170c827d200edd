#!/usr/bin/env python3
"""Make annotation files of Objects365 v2 that fit the images as they are unpacked.

Reads  objects365/annotations/zhiyuan_objv2_{train,val}.json and the images
       objects365/{train,val}/patch*/
Writes objects365/annotations/objects365_v2_{train,val}.json
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.command import prepare_command
from vitadapter_d2.data.preparing.objects365 import prepare_objects365

main = prepare_command(
    __doc__,
    prepare_objects365,
    published_images("objects365_v2_{}", "train", "val"),
    flags={"leave_out": "leave out images that are missing or wrong, and list them"},
    what="images",
)

if __name__ == "__main__":
    sys.exit(main())
