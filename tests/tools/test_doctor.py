import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCTOR = ROOT / "tools" / "doctor.py"


def _doctor(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DOCTOR)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """This environment, with ADE20K prepared and COCO panoptic unpacked."""
    root = tmp_path_factory.mktemp("datasets")
    for path in (
        "ADEChallengeData2016/images",
        "ADEChallengeData2016/annotations",
        "ADEChallengeData2016/annotations_detectron2/training",
        "ADEChallengeData2016/annotations_detectron2/validation",
        "coco/panoptic_train2017",
        "coco/panoptic_val2017",
        "coco/annotations/panoptic_train2017.json",
        "coco/annotations/panoptic_val2017.json",
    ):
        (root / path).mkdir(parents=True)
    return _doctor(DETECTRON2_DATASETS=str(root))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """This environment with packages that fail as broken installations do."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "timm.py").write_text("raise ModuleNotFoundError(\"No module named 'timm'\")\n")
    (folder / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')\n")
    (folder / "hydra.py").write_text("raise ImportError('antlr4 has another version')\n")
    (folder / "tensorboard.py").write_text("raise TypeError('protobuf is too new')\n")
    return _doctor(PYTHONPATH=os.pathsep.join((str(folder), str(ROOT))))


def _line(run: subprocess.CompletedProcess[str], name: str) -> str:
    return next(
        line for line in run.stdout.splitlines() if line[2:].strip().startswith(f"{name}  ")
    )


def _fix(run: subprocess.CompletedProcess[str], name: str) -> str:
    lines = run.stdout.splitlines()
    return lines[lines.index(_line(run, name)) + 1].strip()


def test_a_complete_environment_is_ready(complete: subprocess.CompletedProcess[str]) -> None:
    assert complete.returncode == 0, complete.stdout + complete.stderr
    assert "!!" not in complete.stdout
    assert complete.stdout.endswith("Ready: make quickstart trains, evaluates and draws.\n")


def test_data_sets_are_optional_and_found_below_the_usual_variable(
    complete: subprocess.CompletedProcess[str],
) -> None:
    assert _line(complete, "ade20k").startswith("  ")
    assert _line(complete, "cityscapes").startswith("--")
    assert "gtFine_trainvaltest.zip into" in complete.stdout


def test_a_data_set_that_is_not_prepared_is_not_found(
    complete: subprocess.CompletedProcess[str],
) -> None:
    assert _line(complete, "coco panoptic").startswith("--")
    assert _line(complete, "coco panoptic").endswith("no coco/panoptic_semseg_val2017")
    command = _fix(complete, "coco panoptic")
    python, script = command.removeprefix("-> ").split()
    assert (ROOT / python).samefile(sys.executable)
    assert script == "datasets/prepare_coco_panoptic_semantic.py"
    steps = _fix(complete, "ade20k panoptic")
    assert "unpack annotations_instance.tar" in steps
    assert steps.endswith("datasets/prepare_ade20k_panoptic.py")


def test_a_bare_python_reports_every_missing_package_and_needs_none(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run([python, str(DOCTOR)], env=env, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == ""
    for name in ("torch", "timm", "detectron2", "opencv", "panopticapi", "vitadapter_d2"):
        assert f"!! {name} " in run.stdout
    assert "tools/install_detectron2.py" in run.stdout


def test_a_missing_package_is_named_with_its_command(
    broken: subprocess.CompletedProcess[str],
) -> None:
    assert broken.returncode == 1
    assert _line(broken, "timm").startswith("!!")
    assert "pip install -c constraints.txt timm" in broken.stdout
    assert "Not ready: timm, opencv, hydra-core, tensorboard" in broken.stdout


@pytest.mark.parametrize("name", ["hydra-core", "tensorboard"])
def test_what_detectron2_imports_late_is_tried(
    broken: subprocess.CompletedProcess[str], name: str
) -> None:
    assert _line(broken, name).startswith("!!")
    assert _fix(broken, name).endswith(f"pip install -c constraints.txt {name}")


def test_a_missing_libgl_is_explained(broken: subprocess.CompletedProcess[str]) -> None:
    assert "pip uninstall opencv-python" in broken.stdout
    assert "opencv-python-headless" in broken.stdout
    assert "apt-get install libgl1" in broken.stdout
