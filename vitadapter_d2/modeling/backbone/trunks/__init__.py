"""One file per family of timm trunks; importing it makes ``plain_vit`` know them all."""

from vitadapter_d2.modeling.backbone.trunks import beit as beit
from vitadapter_d2.modeling.backbone.trunks import eva as eva
from vitadapter_d2.modeling.backbone.trunks import naflex as naflex
from vitadapter_d2.modeling.backbone.trunks import relpos as relpos
from vitadapter_d2.modeling.backbone.trunks import sam as sam
from vitadapter_d2.modeling.backbone.trunks import uniperceiver as uniperceiver
from vitadapter_d2.modeling.backbone.trunks import vit as vit
