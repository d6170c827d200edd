"""A user's own data: finding, checking and registering them."""

from vitadapter_d2.data.own.classes import KINDS, OwnClasses
from vitadapter_d2.data.own.dataset import OwnData, OwnPart
from vitadapter_d2.data.own.layouts import MADE_FOLDER, OwnSource, find_places
from vitadapter_d2.data.own.preparing import prepare_own_data

__all__ = [
    "KINDS",
    "MADE_FOLDER",
    "OwnClasses",
    "OwnData",
    "OwnPart",
    "OwnSource",
    "find_places",
    "prepare_own_data",
]
