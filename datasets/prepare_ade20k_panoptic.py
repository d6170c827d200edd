#!/usr/bin/env python3
"""Make ADE20K's panoptic and instance annotations out of its label maps.

Reads  ADEChallengeData2016/annotations/{training,validation}/, 0 = other, 1 to 150, and
       ADEChallengeData2016/annotations_instance/{training,validation}/, red = category 1 to 100,
       green = instance
Writes ADEChallengeData2016/ade20k_panoptic_{train,val}/, ade20k_panoptic_{train,val}.json and
       ade20k_instance_{train,val}.json
"""

import sys

from vitadapter_d2.data.datasets.published import published_images
from vitadapter_d2.data.preparing.ade20k import prepare_ade20k
from vitadapter_d2.data.preparing.command import prepare_command

main = prepare_command(
    __doc__,
    prepare_ade20k,
    published_images("ade20k_panoptic_{}", "train", "val"),
    what="images",
)

if __name__ == "__main__":
    sys.exit(main())
