"""One file per family of timm trunks; importing it makes ``plain_vit`` know them all."""

from vitadapter_d2.modeling.backbone.trunks import beit as beit
from vitadapter_d2.modeling.backbone.trunks import eva as eva
from vitadapter_d2.modeling.backbone.trunks import vit as vit
