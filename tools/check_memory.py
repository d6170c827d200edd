"""Run the op tests against CPU kernels built with AddressSanitizer and UBSan.

    python tools/check_memory.py [--fuzz 300] [pytest arguments]

The instrumented library and a copy of the package live in a temporary folder; the installed ones
stay as they are. Any report of a sanitizer ends the run with an error.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"
TESTS = ("test_ms_deform_attn.py", "test_op_contract.py", "test_fuzz.py")


def compiler() -> str:
    """The C++ compiler that setup.py would take; GCC, whose runtime libraries can be preloaded."""
    command = os.environ.get("CXX") or shutil.which("g++") or ""
    version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
    if "Free Software Foundation" not in version:
        raise SystemExit(f"check_memory needs GCC's g++ (name it in CXX), got {command!r}")
    return command


def build(folder: Path, cxx: str) -> Path:
    """Copy the package to `folder` and put an instrumented library into it."""
    package = folder / "package"
    shutil.copytree(
        ROOT / "vitadapter_d2",
        package / "vitadapter_d2",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    # setup.py knows how to build; its compiler becomes this script, whose options come last.
    wrapper = folder / "g++-with-sanitizers"
    wrapper.write_text(f'#!/bin/sh\nexec "{cxx}" "$@" {SANITIZERS}\n')
    wrapper.chmod(0o755)
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-lib", str(package), "--build-temp", str(folder / "objects")]
    env = {"CXX": str(wrapper), "VITADAPTER_BUILD_KERNELS": "1", "FORCE_CUDA": "0"}
    subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, check=True)
    return package


def runtime(cxx: str, name: str) -> str:
    """Where a sanitizer's runtime library is; Python itself does not bring it."""
    found = subprocess.run([cxx, f"-print-file-name={name}"], capture_output=True, text=True)
    return found.stdout.strip()


def main() -> int:
    """Build, test, say what ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fuzz", type=int, default=60, help="random calls per instruction set")
    args, pytest_args = parser.parse_known_args()
    cxx = compiler()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("Building the CPU kernels with AddressSanitizer and UBSan", flush=True)
        package = build(folder, cxx)
        env = {
            "PYTHONPATH": str(package),
            "PYTHONMALLOC": "malloc",
            "LD_PRELOAD": f"{runtime(cxx, 'libasan.so')} {runtime(cxx, 'libubsan.so')}",
            # Python and torch keep what they allocate until the end.
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "VITADAPTER_FUZZ": str(args.fuzz),
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--capture=sys"]
        command += ["-k", "not reference", *(str(ROOT / "tests" / "ops" / test) for test in TESTS)]
        done = subprocess.run(
            [*command, *pytest_args], cwd=package, env={**os.environ, **env}
        ).returncode
    if done == 0:
        print("No report from AddressSanitizer or UBSan.")
    return done


if __name__ == "__main__":
    sys.exit(main())
