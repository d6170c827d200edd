"""Saving and loading checkpoints, safely."""

from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from vitadapter_d2.files import replacing


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer; nothing is executed from a file, no file is left half-written.

    Checkpoints are written to a temporary name, flushed and renamed. They are read by
    ``torch.load`` with ``weights_only`` (its default since torch 2.6); pickles are refused.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``<name>.pth``.

        Args:
            name: file name without suffix.
            **kwargs: extra entries.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        target = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", target)
        with replacing(target) as file:
            torch.save(data, file)
        self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Notes the newest checkpoint; the note is replaced as a whole."""
        with replacing(Path(self.save_dir, "last_checkpoint"), "w") as file:
            file.write(last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint of Detectron2's or this package's naming.

        Args:
            path: file or URL; empty loads nothing.
            *args: as in ``DetectionCheckpointer.load``.
            **kwargs: as in ``DetectionCheckpointer.load``.

        Returns:
            Entries that nobody took.

        Raises:
            ValueError: the file is a pickle, which could run code.
            FileNotFoundError: there is no such file.
        """
        if path:
            # What the path stands for decides: a catalog's name or a query hides the suffix.
            file = Path(self.path_manager.get_local_path(path.partition("?")[0]))
            if file.suffix in (".pkl", ".pyth"):
                raise ValueError(
                    f"{path} is a pickle, which can run any code when it is read; "
                    "save its tensors with torch.save as a .pth file and load that"
                )
            if not file.is_file():
                raise FileNotFoundError(f"no checkpoint at {path}")
        return super().load(path, *args, **kwargs)
