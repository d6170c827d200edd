#!/usr/bin/env python3
"""Says on one screen what is installed, what runs, what is missing and how to get it.

Exit status 0 if a model can be trained here, 1 if something for that is missing. The standard
library is enough to run this.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

MIN_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.path.relpath(sys.executable) if sys.executable.startswith(str(ROOT)) else sys.executable
PIP_INSTALL = f"{PYTHON} -m pip install -c constraints.txt"


class Row(NamedTuple):
    """One line of the table; a ``fix`` is shown below it, and it counts if ``is_needed``."""

    name: str
    found: str
    fix: str = ""
    is_needed: bool = True


class Package(NamedTuple):
    """A Python package: the module to import and the command that installs it."""

    name: str
    module: str
    fix: str


PACKAGES = (
    Package("torchvision", "torchvision", f"{PIP_INSTALL} torchvision"),
    Package("timm", "timm", f"{PIP_INSTALL} timm"),
    Package("fvcore", "fvcore.nn", f"{PIP_INSTALL} fvcore"),
    Package("scipy", "scipy.optimize", f"{PIP_INSTALL} scipy"),
    Package("pycocotools", "pycocotools.mask", f"{PIP_INSTALL} pycocotools"),
    Package("opencv", "cv2", f"{PIP_INSTALL} opencv-python-headless"),
    Package("omegaconf", "omegaconf", f"{PIP_INSTALL} omegaconf"),
    # detectron2 imports these four only where it overrides a config, logs, draws or crops.
    Package(
        "hydra-core", "hydra.core.override_parser.overrides_parser", f"{PIP_INSTALL} hydra-core"
    ),
    Package("tensorboard", "torch.utils.tensorboard", f"{PIP_INSTALL} tensorboard"),
    Package("matplotlib", "matplotlib.figure", f"{PIP_INSTALL} matplotlib"),
    Package("shapely", "shapely.geometry", f"{PIP_INSTALL} shapely"),
    Package("detectron2", "detectron2.engine", f"{PYTHON} tools/install_detectron2.py"),
    Package("panopticapi", "panopticapi.evaluation", f"{PYTHON} tools/install_detectron2.py"),
)


class DataSet(NamedTuple):
    """A data set is there if all its paths are.

    ``get`` says how to lay out ``paths``, ``prepare`` is the script that makes ``prepared``.
    """

    name: str
    paths: tuple[str, ...]
    get: str
    prepared: tuple[str, ...] = ()
    prepare: str = ""


DATA_SETS = (
    DataSet(
        "shapes",
        ("shapes/annotations/panoptic_val.json",),
        f"{PYTHON} datasets/make_shapes.py   (make quickstart does it)",
    ),
    DataSet(
        "coco",
        (
            "coco/train2017",
            "coco/val2017",
            "coco/annotations/instances_train2017.json",
            "coco/annotations/instances_val2017.json",
        ),
        "unpack train2017.zip, val2017.zip and annotations_trainval2017.zip into {root}/coco",
    ),
    DataSet(
        "coco panoptic",
        (
            "coco/panoptic_train2017",
            "coco/panoptic_val2017",
            "coco/annotations/panoptic_train2017.json",
            "coco/annotations/panoptic_val2017.json",
        ),
        "unpack panoptic_annotations_trainval2017.zip, and the zips in it, into {root}/coco",
        ("coco/panoptic_semseg_val2017",),  # what evaluation reads; training does without
        "datasets/prepare_coco_panoptic_semantic.py",
    ),
    DataSet(
        "ade20k",
        ("ADEChallengeData2016/images", "ADEChallengeData2016/annotations"),
        "unpack ADEChallengeData2016.zip into {root}",
        (
            "ADEChallengeData2016/annotations_detectron2/training",
            "ADEChallengeData2016/annotations_detectron2/validation",
        ),
        "datasets/prepare_ade20k_sem_seg.py",
    ),
    DataSet(
        "ade20k panoptic",
        ("ADEChallengeData2016/annotations_instance",),
        "unpack annotations_instance.tar into {root}/ADEChallengeData2016",
        (
            "ADEChallengeData2016/ade20k_panoptic_train.json",
            "ADEChallengeData2016/ade20k_panoptic_val.json",
        ),
        "datasets/prepare_ade20k_panoptic.py",
    ),
    DataSet(
        "cityscapes",
        ("cityscapes/leftImg8bit/train", "cityscapes/gtFine/train"),
        "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into {root}/cityscapes",
    ),
)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]


def _import(module: str) -> ModuleType | str:
    """Returns the module, or why it cannot be imported. Compiled parts fail in many ways."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        return _first_line(error)


def _version(package: Package, module: ModuleType) -> str:
    try:
        return importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        root = sys.modules[package.module.split(".")[0]]
        return str(getattr(root, "__version__", getattr(module, "__version__", "found")))


def _explain(package: Package, error: str) -> str:
    if package.module == "cv2" and re.search(r"lib(GL|gthread|SM|Xext)\b", error):
        return (
            "this OpenCV is the desktop build and a system library is missing: "
            f"{PYTHON} -m pip uninstall opencv-python && {package.fix}   "
            "(or, on Debian: apt-get install libgl1 libglib2.0-0)"
        )
    return package.fix


def _detectron2_kind() -> str:
    if isinstance(_import("detectron2._C"), str):
        return "pure Python: no rotated boxes, COCO evaluation by pycocotools"
    return "with its compiled operators"


def check_python() -> Row:
    """Checks the interpreter."""
    fix = "" if sys.version_info >= MIN_PYTHON else "make setup PYTHON=/path/to/python3.11"
    return Row("python", f"{platform.python_version()}  {sys.executable}", fix)


def check_torch() -> Row:
    """Checks torch and says what it computes on."""
    torch = _import("torch")
    if isinstance(torch, str):
        return Row("torch", torch, f"make setup, or: {PIP_INSTALL} torch torchvision")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        device = f"{torch.cuda.device_count()} GPU: {', '.join(sorted(names))}"
    else:
        device = "no GPU found: runs on the CPU"
    cuda = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    return Row("torch", f"{torch.__version__}  {cuda}, {device}")


def check_package(package: Package) -> Row:
    """Checks that a package imports."""
    module = _import(package.module)
    if isinstance(module, str):
        return Row(package.name, module, _explain(package, module))
    found = _version(package, module)
    if package.name == "detectron2":
        found += f"  {_detectron2_kind()}"
    return Row(package.name, found)


def check_ops() -> list[Row]:
    """Checks that this project imports and that its op computes, and says by which code."""
    install = f"{PYTHON} -m pip install --no-build-isolation -e ."
    ops = _import("vitadapter_d2.ops")
    if isinstance(ops, str):
        return [Row("vitadapter_d2", ops, install)]
    import torch

    value, points = torch.ones(1, 4, 1, 8), torch.full((1, 1, 1, 1, 1, 2), 0.5)
    try:
        output = ops.ms_deform_attn(value, [(2, 2)], points, torch.ones(1, 1, 1, 1, 1))
        works = bool(torch.allclose(output, torch.ones(1, 1, 8)))
        fix = "" if works else f"the op gives a wrong result; rebuild it: {install}"
    except Exception as error:
        fix = f"the op fails ({_first_line(error)}); rebuild it: {install}"
    rows = [Row("op on CPU", ops.backend(), fix)]
    if torch.cuda.is_available():
        rows.append(Row("op on CUDA", ops.cuda_backend()))
    return rows


def check_compiler() -> Row:
    """Lists the build tools. Without them the op runs in PyTorch: slower, same results."""
    found = []
    for tool in ("g++", "make", "nvcc"):
        path = shutil.which(tool)
        if path:
            text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            version = re.search(r"release ([\d.]+)|(\d+\.[\d.]+)\s*$", text, re.MULTILINE)
            found.append(f"{tool} {(version[1] or version[2]) if version else ''}".strip())
        else:
            found.append(f"no {tool}")
    fix = "" if shutil.which("g++") else "on Debian: apt-get install g++   (for the fast kernels)"
    return Row("compilers", ", ".join(found), fix, is_needed=False)


def check_data() -> list[Row]:
    """Looks for the data sets below DETECTRON2_DATASETS."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    rows = [Row("data sets", f"in {root}  ($DETECTRON2_DATASETS, or ./datasets)")]
    for data in DATA_SETS:
        rows.append(_check_data_set(root, data))
    return rows


def _check_data_set(root: Path, data: DataSet) -> Row:
    missing = [path for path in (*data.paths, *data.prepared) if not (root / path).exists()]
    steps = []
    if not set(missing).isdisjoint(data.paths):
        steps.append(data.get.format(root=root))
    if not set(missing).isdisjoint(data.prepared):
        steps.append(f"{PYTHON} {data.prepare}")
    found = f"no {missing[0]}" if missing else "found"
    return Row(f"  {data.name}", found, ", then: ".join(steps), is_needed=False)


def check_all() -> list[Row]:
    """Runs every check, in the order of the table."""
    rows = [check_python(), check_torch(), *map(check_package, PACKAGES), *check_ops()]
    return [*rows, check_compiler(), *check_data()]


def main() -> int:
    """Prints the table and returns the exit status."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # what the op would warn of stands in the table
    rows = check_all()
    width = max(len(row.name) for row in rows)
    for row in rows:
        mark = "  " if not row.fix else ("!!" if row.is_needed else "--")
        print(f"{mark} {row.name:{width}}  {row.found}")
        if row.fix:
            print(f"   {'':{width}}  -> {row.fix}")
    missing = [row.name for row in rows if row.fix and row.is_needed]
    if missing:
        print(
            f"\nNot ready: {', '.join(missing)}. The lines marked !! say how; make setup does all."
        )
        return 1
    print("\nReady: make quickstart trains, evaluates and draws.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
