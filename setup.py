"""Installation: a pure Python package, plus compiled kernels where torch and a compiler are there.

torch is looked up, never imported: under pip's build isolation it is absent, the install pure.

VITADAPTER_BUILD_KERNELS=0 leaves the kernels out; =1 makes it an error if they cannot be built.
CXX names the compiler.

CUDA kernels are a second library, built where nvcc, a CUDA build of torch and a GPU are visible.
FORCE_CUDA=0 leaves them out; =1 builds them without a GPU as well, and makes it an error if that
fails. TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX") names what to compile for, by default the GPUs that are
visible, or else one architecture per generation. CUDA_HOME is where nvcc's toolkit is.
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
ONNX = ["onnx", "onnxscript", "onnxruntime"]  # to export, and to check what was exported

X86_FLAGS = {
    "kCpuGeneric": "",
    "kCpuAvx2": "-mavx2 -mfma -mf16c",
    "kCpuAvx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c "
    "-mprefer-vector-width=512",
}

# Code for one architecture runs on later ones with the same number before the point.
CUDA_ARCHITECTURES = ("7.0", "7.5", "8.0", "9.0", "10.0", "12.0+PTX")


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


def torch_folder() -> Path:
    """Where torch is."""
    return Path(importlib.util.find_spec("torch").submodule_search_locations[0])


def output(*command: str) -> str:
    """What a command prints; nothing if there is no such command or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def nvcc() -> str | None:
    """The CUDA compiler's command, or None."""
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, candidates)), None)


def visible_gpus() -> list[str]:
    """Architectures of the GPUs in this machine, such as 9.0."""
    query = output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    return sorted(set(re.findall(r"^\d+\.\d$", query, re.MULTILINE)), key=float)


def cuda_obstacle() -> str | None:
    """Why the CUDA kernels cannot be built here, or None."""
    if nvcc() is None:
        return "no nvcc found (install the CUDA toolkit, or name its folder in CUDA_HOME)"
    text = (torch_folder() / "version.py").read_text()
    wanted = re.search(r"^cuda.*= '(\d+)\.", text, re.MULTILINE)
    if wanted is None:
        return "this torch is built without CUDA"
    given = re.search(r"release (\d+)\.", output(nvcc(), "--version"))
    if given is None or int(given[1]) != int(wanted[1]):
        return f"torch needs nvcc {wanted[1]}, {nvcc()} is {given[1] if given else 'broken'}"
    return None


def cuda_architectures() -> list[str]:
    """What to compile for: "9.0", or "9.0+PTX" with the form that later generations can use."""
    asked = re.split(r"[;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip("; ,"))
    if asked == [""]:
        asked = visible_gpus()
    supported = re.findall(r"compute_(\w+)", output(nvcc(), "--list-gpu-arch"))
    if not asked:
        names = [name for name in CUDA_ARCHITECTURES if architecture_code(name) in supported]
        # Code for 7.0 runs on 7.5.
        return [name for name in names if name != "7.5" or "7.0" not in names]
    for name in asked:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: expected such as 8.0;9.0+PTX, got {name!r}")
        if architecture_code(name).rstrip("af") not in supported:
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST: {nvcc()} compiles for {', '.join(supported)}, not {name}"
            )
    return asked


def architecture_code(name: str) -> str:
    """90 for 9.0+PTX."""
    return name.removesuffix("+PTX").replace(".", "")


def architecture_flags(names: list[str]) -> list[str]:
    """The options of nvcc for what `cuda_architectures` returns."""
    flags = []
    for name in names:
        code = architecture_code(name)
        flags.append(f"-gencode=arch=compute_{code},code=sm_{code}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{code},code=compute_{code}")
    return flags


class BuildKernels(build_ext):
    """Build the extensions, which are libraries of torch ops without Python symbols."""

    def build_extension(self, ext: Extension) -> None:
        """Build one of them."""
        objects = Path(self.build_temp).resolve()
        objects.mkdir(parents=True, exist_ok=True)
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        build = self.build_cuda if ext.name.endswith("_cuda") else self.build_cpu
        build(objects, library)

    def build_cuda(self, objects: Path, library: Path) -> None:
        """Compile the one CUDA file for each architecture, and link it to torch's CUDA runtime."""
        names = cuda_architectures()
        say(f"compiling the CUDA kernels for {', '.join(names)}")
        torch, host = torch_folder(), os.environ.get("CXX")
        out = objects / "cuda_launch.o"
        command = [nvcc(), *(["-ccbin", shlex.split(host)[0]] if host else [])]
        run([
            *command, "-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall",
            *architecture_flags(names), "--threads=0", "-DUSE_CUDA",
            f'-DVITADAPTER_CUDA_ARCHITECTURES="{", ".join(names)}"',
            f"-DTORCH_TARGET_VERSION={TARGET_VERSION}", "-isystem", str(torch / "include"),
            "-c", str(ROOT / KERNELS / "cuda_launch.cu"), "-o", str(out),
        ])  # fmt: skip
        run([*command, "-shared", "-cudart=shared", *architecture_flags(names), str(out),
             f"-L{torch / 'lib'}", "-ltorch_cpu", "-ltorch_cuda", "-o", str(library)])  # fmt: skip

    def build_cpu(self, objects: Path, library: Path) -> None:
        """Compile the objects in parallel, each with its own instruction set, and link them."""
        torch = torch_folder()
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
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, [[*job, "-c", "-o", str(out)] for out, job in jobs.items()]))

        run([compiler(), "-shared", *map(str, jobs), f"-L{torch / 'lib'}", "-ltorch_cpu",
             "-o", str(library)])  # fmt: skip


def run(command: list[str]) -> None:
    """Run a compiler; its complaints become the error."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CompileError(f"{shlex.join(command)}\n{done.stderr[-4000:]}")


def switch(name: str) -> str:
    """An environment variable that is 0, 1 or not set."""
    wanted = os.environ.get(name, "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"{name}: expected 0 or 1, got {wanted!r}")
    return wanted


def extension(name: str, suffix: str, *, optional: bool) -> Extension:
    """The library of all kernel files that end in `suffix`."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / KERNELS).iterdir())
    return Extension(
        f"vitadapter_d2.ops.{name}",
        sources=[file for file in files if file.endswith(suffix)],
        depends=[file for file in files if file.endswith((".h", ".cuh"))],
        py_limited_api=True,  # it has no Python symbols at all
        optional=optional,
    )


def kernels() -> list[Extension]:
    """The extensions to build, with a line that says which, or why not."""
    wanted, cuda_wanted = switch("VITADAPTER_BUILD_KERNELS"), switch("FORCE_CUDA")
    reason = obstacle()
    if reason is not None and "1" in (wanted, cuda_wanted):
        asked = "VITADAPTER_BUILD_KERNELS" if wanted == "1" else "FORCE_CUDA"
        raise SystemExit(f"{asked}=1, but {reason}")
    if wanted == "0":
        reason = "VITADAPTER_BUILD_KERNELS=0"
    extensions = []
    if reason is not None:
        say(f"installing without compiled kernels: {reason}")
    else:
        say("building the compiled kernels")
        extensions.append(extension("_C", ".cpp", optional=wanted != "1"))
    if cuda_wanted == "1" and (reason := cuda_obstacle()) is not None:
        raise SystemExit(f"FORCE_CUDA=1, but {reason}")
    if cuda_wanted == "1" or (extensions and cuda_wanted == "" and builds_cuda()):
        extensions.append(extension("_C_cuda", ".cu", optional=cuda_wanted != "1"))
    return extensions


def builds_cuda() -> bool:
    """Whether there is a GPU and all that its kernels need."""
    if not visible_gpus():
        return False
    reason = cuda_obstacle()
    if reason is not None:
        say(f"installing without CUDA kernels: {reason}")
    return reason is None


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
        "timm>=1.0.30",
        "safetensors",
        "fvcore",
        "pycocotools",
        "numpy",
        "scipy",
        "tqdm",
    ],
    extras_require={
        "opencv": ["opencv-python"],
        "opencv-headless": ["opencv-python-headless"],
        "dev": [
            *("pytest", "pytest-xdist", "ruff", "mypy", "clang-format"),
            *("faster-coco-eval", "wandb", *ONNX),
        ],
        "onnx": ONNX,
    },
    ext_modules=extensions,
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if extensions else {},
    zip_safe=False,
)
