"""Finding and reading LazyConfig files."""

import builtins
from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.config import LazyConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vitadapter_d2.engine.config.calls import check_calls
from vitadapter_d2.engine.config.overrides import apply_overrides
from vitadapter_d2.engine.errors import ConfigError, nearest

_PACKAGE = Path(__file__).resolve().parents[2]
_SUFFIXES = (".py", ".yaml", ".yml")


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
        FileNotFoundError: neither a file nor a name of the zoo; the message has the nearest names.
    """
    if Path(name).is_file():
        return Path(name)
    zoo = str(name).removesuffix(".py")
    names = zoo_names()
    if zoo in names:
        return configs_root() / f"{zoo}.py"
    raise FileNotFoundError(
        f"{name} is neither a file nor a name of the zoo; nearest: {', '.join(nearest(zoo, names))}"
        f' (all {len(names)}: MODEL_ZOO.md, or python -c "from vitadapter_d2 import model_zoo; '
        'print(*model_zoo.names())")'
    )


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Reads the configuration that :func:`find_config` finds; a config is code and is run.

    Args:
        name: see :func:`find_config`.
        overrides: as :func:`~vitadapter_d2.engine.config.overrides.apply_overrides` takes them.

    Raises:
        FileNotFoundError: there is no such file or name.
        ConfigError: the file cannot be read, an override is not legal, or a call of the result
            has arguments that what it calls does not take.
    """
    cfg = apply_overrides(_read(find_config(name)), overrides)
    check_calls(cfg)
    return cfg


def _read(path: Path) -> DictConfig:
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"a config is a file {', '.join(_SUFFIXES)}; got {path}")
    importing = builtins.__import__
    try:
        cfg = LazyConfig.load(str(path))
    except SyntaxError as error:
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        line = f", line {cause.lineno}" if cause.lineno else ""
        raise ConfigError(f"{path}{line}: {cause.msg}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    except ImportError as error:
        raise ConfigError(f"{path}: {error}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path} holds no mapping") from error
    finally:
        builtins.__import__ = importing  # Detectron2 leaves its own behind after an error
    if not isinstance(cfg, DictConfig):
        raise ConfigError(f"{path} holds no mapping")
    return cfg
