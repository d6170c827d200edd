"""DINO: meta-architecture and the parts that a config assembles."""

from vitadapter_d2.modeling.dino.criterion import SetCriterion
from vitadapter_d2.modeling.dino.decoder import DeformableDecoder
from vitadapter_d2.modeling.dino.denoising import ContrastiveDenoising
from vitadapter_d2.modeling.dino.encoder import DeformableEncoder
from vitadapter_d2.modeling.dino.matcher import HungarianMatcher
from vitadapter_d2.modeling.dino.model import DINO
from vitadapter_d2.modeling.dino.neck import InputProjection
from vitadapter_d2.modeling.dino.query_selection import QuerySelection

__all__ = [
    "DINO",
    "ContrastiveDenoising",
    "DeformableDecoder",
    "DeformableEncoder",
    "HungarianMatcher",
    "InputProjection",
    "QuerySelection",
    "SetCriterion",
]
