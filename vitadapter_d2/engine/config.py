"""Finding and reading LazyConfig files."""

from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parents[1]


def configs_root() -> Path:
    """The folder of the published configurations: in the package, or beside it in a checkout."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if (folder / "common").is_dir():
            return folder
    raise FileNotFoundError(f"no configs folder in or beside {_PACKAGE}; install the package again")


def zoo_names() -> list[str]:
    """Names of all published configurations, such as ``shapes/mask_rcnn_vit_adapter_shapes``."""
    root = configs_root()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix()
        for path in root.glob("*/*.py")
        if path.parent.name != "common"
    )


def find_config(name: str | Path) -> Path:
    """The file of a configuration.

    Args:
        name: path of a ``.py`` or ``.yaml`` file, or a zoo name such as
            ``coco/mask_rcnn_deit_adapter_small_fpn_1x_coco``.

    Raises:
        FileNotFoundError: neither a file nor a name of the zoo.
    """
    if Path(name).is_file():
        return Path(name)
    zoo = str(name).removesuffix(".py")
    if zoo in zoo_names():
        return configs_root() / f"{zoo}.py"
    raise FileNotFoundError(
        f"{name} is neither a file nor a name of the zoo; the zoo has: {', '.join(zoo_names())}"
    )


def load_config(name: str | Path) -> DictConfig:
    """Reads the configuration that :func:`find_config` finds; a config is code and is run."""
    return LazyConfig.load(str(find_config(name)))
