"""Fixtures that several test files share."""

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

# A shell's background jobs ignore Ctrl-C, and so would the commands that are tested with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Torch imports it on the way; where warnings are errors it takes the wrong distutils, and fails.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

COMMITTED = Path(__file__).parent / "data" / "reference"


class ReferenceCase:
    """Inputs, weights, outputs and gradients of the official implementation."""

    def __init__(self, path: Path) -> None:
        self.data: dict[str, Any] = torch.load(path, weights_only=True)

    def __getattr__(self, name: str) -> Any:
        return self.data[name]

    def check_outputs(self, outputs: Sequence[Tensor]) -> None:
        for output, expected in zip(outputs, self.outputs, strict=True):
            torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)

    def check_gradients(
        self, outputs: Sequence[Tensor], module: nn.Module, rename: Callable[[str], str]
    ) -> None:
        """Backward of the case's loss, then every recorded gradient to 1e-3 of its largest."""
        self.loss_of(outputs).backward()
        parameters = dict(module.named_parameters())
        for name, expected in self.grads.items():
            self._close(parameters[rename(name)].grad, expected, name)

    def loss_of(self, outputs: Sequence[Tensor]) -> Tensor:
        return sum(
            (output * _weights(output.numel(), index).view_as(output)).mean()
            for index, output in enumerate(outputs)
        )

    def check_input_gradients(self, inputs: Sequence[Tensor]) -> None:
        for index, (value, expected) in enumerate(zip(inputs, self.input_grads, strict=True)):
            if expected is not None:
                self._close(value.grad, expected, f"input {index}")

    @staticmethod
    def _close(actual: Tensor, expected: Tensor, name: str) -> None:
        atol = 1e-3 * expected.abs().max().item()
        torch.testing.assert_close(
            actual, expected, atol=atol, rtol=1e-3, msg=lambda text: f"gradient of {name}: {text}"
        )


def _weights(numel: int, index: int) -> Tensor:
    return torch.cos(0.37 * torch.arange(numel, dtype=torch.float64) + index).float()


@pytest.fixture
def reference_case() -> Callable[[str], ReferenceCase]:
    """Loads a case by name; only those that are not committed may be absent."""

    def load(name: str) -> ReferenceCase:
        committed = COMMITTED / f"{name}.pt"
        if committed.is_file():
            return ReferenceCase(committed)
        folder = os.environ.get("VITADAPTER_REFERENCE")
        if not folder:
            pytest.skip(f"reference case {name}: set VITADAPTER_REFERENCE to the folder of cases")
        return ReferenceCase(Path(folder, f"{name}.pt"))

    return load


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    without_gpu = [item for item in items if item.get_closest_marker("gpu") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in without_gpu])
    items[:] = without_gpu


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated set of 8 + 8 images, registered as ``tiny_{train,val}[_panoptic]``."""
    # Here, so that tests/ops run where torch is all there is.
    from vitadapter_d2.data.datasets import ShapesSpec, generate, register_shapes

    root = tmp_path_factory.mktemp("data") / "shapes"
    generate(root, ShapesSpec(train=8, val=8, size=96, seed=3), workers=0)
    register_shapes(str(root), prefix="tiny")
    return root
