"""Metadata as a function, so that a config can name it and still be saved as text."""

from detectron2.data import Metadata, MetadataCatalog


def get_metadata(name: str) -> Metadata:
    """Class names, colours and id maps of a registered data set."""
    return MetadataCatalog.get(name)
