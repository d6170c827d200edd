"""Installation: a pure Python package, plus compiled kernels where torch and a compiler are there.

torch is looked up, never imported: under pip's build isolation it is absent, the install pure.

VITADAPTER_BUILD_KERNELS=0 leaves the kernels out; =1 makes it an error if they cannot be built.
CXX names the compiler.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
KERNELS = Path("csrc") / "ms_deform_attn"
BUILD_COMMAND = "pip install --no-build-isolation -e ."
MIN_TORCH = (2, 11)
TARGET_VERSION = "0x020b000000000000"  # torch 2.11: what runs there runs on every later release

# Compiled once each; the launcher picks one at run time. Elsewhere the generic one is all.
X86_FLAGS = {
    "kCpuGeneric": "",
    "kCpuAvx2": "-mavx2 -mfma -mf16c",
    "kCpuAvx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c "
    "-mprefer-vector-width=512",
}


def say(message: str) -> None:
    """Print a line that `pip -v` and direct calls of this file show."""
    print(f"vitadapter_d2: {message}", file=sys.stderr, flush=True)


def compiler() -> str | None:
    """The C++ compiler's command, or None."""
    for candidate in (os.environ.get("CXX"), sysconfig.get_config_var("CXX"), "c++", "g++"):
        if candidate and shutil.which(shlex.split(candidate)[0]):
            return shlex.split(candidate)[0]
    return None


def obstacle() -> str | None:
    """Why the kernels cannot be built here, or None."""
    if sys.platform == "win32":
        return "the kernels need GCC or Clang, which Windows builds of Python do not use"
    if importlib.util.find_spec("torch") is None:
        return f"torch is not visible to this build; `{BUILD_COMMAND}` builds the kernels"
    version = importlib.metadata.version("torch")
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_TORCH:
        return f"the kernels need torch 2.11 or later, this is {version}"
    if compiler() is None:
        return "no C++ compiler found (install g++, or name one in CXX)"
    return None


class BuildKernels(build_ext):
    """Compile the objects in parallel, each with its own instruction set, and link them."""

    def build_extension(self, ext: Extension) -> None:
        """Build the one extension there is, a library of torch ops without Python symbols."""
        objects = Path(self.build_temp).resolve()
        objects.mkdir(parents=True, exist_ok=True)
        torch = Path(importlib.util.find_spec("torch").submodule_search_locations[0])
        common = [compiler(), "-std=c++20", "-fPIC", "-O3", "-fvisibility=hidden", "-Wall"]

        kernel_flags = ["-fno-math-errno", "-fno-trapping-math"]
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        sets = X86_FLAGS if x86 else {"kCpuGeneric": ""}
        jobs = {
            objects / f"{name}.o": [
                *common, *kernel_flags, *flags.split(), f"-DVITADAPTER_KERNELS={name}",
                str(ROOT / KERNELS / "cpu_kernel.cpp"),
            ]
            for name, flags in sets.items()
        }  # fmt: skip
        jobs[objects / "cpu_launch.o"] = [
            *common, *(["-DVITADAPTER_X86"] if x86 else []),
            f"-DTORCH_TARGET_VERSION={TARGET_VERSION}", f"-I{torch / 'include'}",
            str(ROOT / KERNELS / "cpu_launch.cpp"),
        ]  # fmt: skip
        # A CUDA file joins here: one more job with nvcc as its compiler.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, [[*job, "-c", "-o", str(out)] for out, job in jobs.items()]))

        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        run([compiler(), "-shared", *map(str, jobs), f"-L{torch / 'lib'}", "-ltorch_cpu",
             "-o", str(library)])  # fmt: skip


def run(command: list[str]) -> None:
    """Run a compiler; its complaints become the error."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CompileError(f"{shlex.join(command)}\n{done.stderr[-4000:]}")


def kernels() -> list[Extension]:
    """The extension to build, or nothing, with a line that says which and why."""
    wanted = os.environ.get("VITADAPTER_BUILD_KERNELS", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"VITADAPTER_BUILD_KERNELS: expected 0 or 1, got {wanted!r}")
    reason = "VITADAPTER_BUILD_KERNELS=0" if wanted == "0" else obstacle()
    if reason is not None:
        if wanted == "1":
            raise SystemExit(f"VITADAPTER_BUILD_KERNELS=1, but {reason}")
        say(f"installing without compiled kernels: {reason}")
        return []
    say("building the compiled kernels")
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / KERNELS).iterdir())
    return [
        Extension(
            "vitadapter_d2.ops._C",
            sources=[name for name in files if name.endswith(".cpp")],
            depends=[name for name in files if name.endswith(".h")],
            py_limited_api=True,  # it has no Python symbols at all
            optional=wanted != "1",
        )
    ]


def version() -> str:
    """The package's version, read without importing it."""
    text = (ROOT / "vitadapter_d2" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"', text, re.MULTILINE).group(1)


def long_description() -> str:
    """README, where it is there."""
    readme = ROOT / "README.md"
    return readme.read_text() if readme.exists() else ""


extensions = kernels()
setup(
    name="vitadapter_d2",
    version=version(),
    description="ViT-Adapter as a Detectron2 project",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["vitadapter_d2", "vitadapter_d2.*"]),
        "vitadapter_d2.configs",
    ],
    # The configs are files to load, not modules to import, so they keep their place at the top.
    package_dir={"vitadapter_d2.configs": "configs"},
    package_data={"vitadapter_d2.configs": ["**/*.py"]},
    # detectron2 is on no package index (tools/install_detectron2.py installs it). OpenCV comes in
    # builds that exclude each other, so it is an extra: whoever has a headless one keeps it.
    install_requires=[
        "torch>=2.6",  # since then torch.load reads tensors alone unless told otherwise
        "torchvision>=0.21",
        "timm>=1.0.15",
        "fvcore",
        "pycocotools",
        "numpy",
        "scipy",
        "tqdm",
    ],
    extras_require={
        "opencv": ["opencv-python"],
        "opencv-headless": ["opencv-python-headless"],
        "dev": ["pytest", "pytest-xdist", "ruff", "mypy", "clang-format"],
    },
    ext_modules=extensions,
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if extensions else {},
    zip_safe=False,
)
