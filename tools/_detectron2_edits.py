"""What detectron2 v0.6 needs to run on today's torch, numpy, Pillow and Python: data, no code.

detectron2 is Apache-2.0, Copyright (c) Facebook, Inc. and its affiliates. Every edit keeps the
behaviour of v0.6 wherever v0.6 still runs.
"""

from typing import NamedTuple


class Edit(NamedTuple):
    """One replacement: `old` must occur exactly `count` times in `path` and becomes `new`."""

    path: str
    old: str
    new: str
    count: int = 1


_IMPORT_C = "from detectron2 import _C\n"
_IMPORT_C_IF_BUILT = """try:
    from detectron2 import _C
except ImportError:  # a pure-Python installation
    from detectron2.utils.not_compiled import _C
"""

_NOT_COMPILED = '''
"""Stands in for the compiled operators of detectron2, which this installation lacks."""


class _NotCompiled:
    def __getattr__(self, name):
        raise RuntimeError(
            f"detectron2's operator '{name}' needs its compiled part, and this detectron2 is a "
            "pure-Python installation: rotated boxes, and deformable convolutions on CUDA, need "
            "a detectron2 that is built from its own sources."
        )


_C = _NotCompiled()
'''

ADDED_FILES = {"detectron2/utils/not_compiled.py": _NOT_COMPILED.lstrip()}

EDITS = (
    # Compiled operators become optional; COCO evaluation falls back to pycocotools.
    Edit("detectron2/layers/deform_conv.py", _IMPORT_C, _IMPORT_C_IF_BUILT),
    Edit("detectron2/layers/rotated_boxes.py", _IMPORT_C, _IMPORT_C_IF_BUILT),
    Edit("detectron2/layers/roi_align_rotated.py", _IMPORT_C, _IMPORT_C_IF_BUILT),
    Edit(
        "detectron2/layers/nms.py",
        "    return torch.ops.detectron2.nms_rotated(boxes, scores, iou_threshold)\n",
        '    if not hasattr(torch.ops.detectron2, "nms_rotated"):\n'
        "        from detectron2.utils.not_compiled import _C\n\n"
        "        _C.nms_rotated\n"
        "    return torch.ops.detectron2.nms_rotated(boxes, scores, iou_threshold)\n",
    ),
    Edit(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "try:\n"
        "    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:  # a pure-Python installation\n"
        "    COCOeval_opt = COCOeval\n",
    ),
    # caffe2 left torch.
    Edit(
        "detectron2/export/__init__.py",
        "from .api import *\n",
        "try:\n"
        "    from .api import *\n"
        "except ModuleNotFoundError as e:\n"
        '    if not (e.name or "").startswith("caffe2"):\n'
        "        raise\n",
    ),
    # pkg_resources left setuptools.
    Edit("detectron2/model_zoo/model_zoo.py", "import pkg_resources\n", ""),
    Edit(
        "detectron2/model_zoo/model_zoo.py",
        "    cfg_file = pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
        "    )\n",
        "    cfg_file = os.path.join(\n"
        '        os.path.dirname(os.path.abspath(__file__)), "configs", config_path\n'
        "    )\n",
    ),
    # Names that Pillow and numpy removed; on numpy 2, copy=False means "raise if a copy is needed".
    Edit("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR"),
    Edit("detectron2/data/build.py", "dtype=np.int)", "dtype=int)"),
    Edit("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n"),
    Edit("detectron2/data/datasets/pascal_voc.py", "np.str)", "str)"),
    Edit("detectron2/evaluation/pascal_voc_evaluation.py", "np.bool)", "bool)", 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "np.int)", "int)", 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "np.float)", "float)", 5),
    Edit("detectron2/structures/masks.py", "np.bool)", "bool)", 3),
    Edit("detectron2/utils/visualizer.py", "np.bool)", "bool)", 3),
    Edit("detectron2/utils/video_visualizer.py", "np.bool)", "bool)"),
    Edit("detectron2/layers/mask_ops.py", "np.array(mask, copy=False)", "np.asarray(mask)"),
    # matplotlib refuses colours that rounding took out of [0, 1].
    Edit(
        "detectron2/utils/visualizer.py",
        "        return modified_color\n",
        "        return tuple(min(max(c, 0.0), 1.0) for c in modified_color)\n",
    ),
    # random.sample refuses sets since Python 3.11. Sorted, so that a seed still fixes the choice.
    Edit(
        "detectron2/data/common.py",
        "self._rng.sample(self._fallback_candidates, k=1)",
        "self._rng.sample(sorted(self._fallback_candidates), k=1)",
    ),
    # Distributed training without CUDA: gloo.
    Edit(
        "detectron2/engine/launch.py",
        '    assert torch.cuda.is_available(), "cuda is not available. Please check your '
        'installation."\n',
        "    has_gpu = torch.cuda.is_available()\n"
        "    if has_gpu:\n"
        "        assert num_gpus_per_machine <= torch.cuda.device_count()\n",
    ),
    Edit(
        "detectron2/engine/launch.py",
        '            backend="NCCL",\n',
        '            backend="NCCL" if has_gpu else "GLOO",\n',
    ),
    Edit(
        "detectron2/engine/launch.py",
        "    assert num_gpus_per_machine <= torch.cuda.device_count()\n"
        "    torch.cuda.set_device(local_rank)\n",
        "    if has_gpu:\n        torch.cuda.set_device(local_rank)\n",
    ),
    Edit(
        "detectron2/engine/defaults.py",
        '    if "device_ids" not in kwargs:\n',
        '    if "device_ids" not in kwargs and next(model.parameters()).is_cuda:\n',
    ),
    # Typed storages are deprecated.
    Edit(
        "detectron2/utils/comm.py",
        "    storage = torch.ByteStorage.from_buffer(buffer)\n"
        "    tensor = torch.ByteTensor(storage).to(device=device)\n",
        "    tensor = torch.frombuffer(bytearray(buffer), dtype=torch.uint8).to(device=device)\n",
    ),
    # "import importlib" alone does not bring its submodules.
    Edit(
        "detectron2/projects/__init__.py",
        "import importlib\n",
        "import importlib.abc\nimport importlib.util\n",
    ),
    # A target of LazyCall may be a string; to_py took it for an object.
    Edit(
        "detectron2/config/lazy.py",
        '                target = _convert_target_to_string(obj.pop("_target_"))\n',
        '                target = obj.pop("_target_")\n'
        "                if not isinstance(target, str):\n"
        "                    target = _convert_target_to_string(target)\n",
    ),
    # torch will change the default; until then it warns.
    Edit(
        "detectron2/modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
    ),
    Edit(
        "projects/Panoptic-DeepLab/panoptic_deeplab/post_processing.py",
        "        torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n    )\n",
        "        torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n"
        '        indexing="ij",\n'
        "    )\n",
    ),
)

# Regular expressions that may match nowhere in the edited Python files.
GONE = (
    r"\bnp\.(bool|int|float|object|str)\b",
    r"\bImage\.(LINEAR|ANTIALIAS|CUBIC)\b",
    r"\bpkg_resources\b",
    r"np\.array\([^()]*copy=False",
)

# What v0.6 imports. OpenCV is not named: four different packages provide it.
REQUIRES = (
    "torch",
    "torchvision",
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "black",
    "packaging",
    "shapely",
)

# Where each package of the wheel lies in the sources.
PACKAGES = {
    "detectron2": "detectron2",
    "detectron2/projects/point_rend": "projects/PointRend/point_rend",
    "detectron2/projects/deeplab": "projects/DeepLab/deeplab",
    "detectron2/projects/panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}
