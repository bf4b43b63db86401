"""Registry of runtimes. The file ``<name>_runtime.py`` in this folder registers the runtime ``<name>``.

A runtime makes a model ready to run (``Runtime.prepare``). A runtime that executes files can also write such a file and read
it again (``FileRuntime``): what is timed is then what is delivered. To add a runtime, add one file to this folder; no other
file names it. The suffix ``_runtime`` prevents a module from having the name of the library that it uses; in names of
runtimes, hyphens stand for the underscores of the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.traced import Traced, traced

__all__ = ["Execute", "FileRuntime", "Runtime", "names", "register", "runtime"]

Execute = Callable[[Mapping[str, Any]], Any]
"""Runs one batch, and returns the output by name when it is available: ``execute(batch)["logits"]``."""


class Runtime(ABC):
    """One way to run a model. Subclasses have no state.

    Attributes:
        packages: modules that must be importable.
        extra: extra of Secateurs that installs them.
        dtypes: names of the data types in which it runs.
        devices: kinds of devices on which it runs.
        keeps_cache: whether a batch may hold a key-value cache, ``past_key_values``, and the output returns it. The regime
            ``generation`` needs it.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", "float16")
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    keeps_cache: ClassVar[bool] = False
    name: ClassVar[str] = ""

    def check(self, environment: Environment) -> None:
        """Check that the runtime is installed, and that it can run in an environment.

        Args:
            environment: device, data type and regime.

        Raises:
            RecipeError: a package is missing, the device, the data type or the regime is none of this runtime.
        """
        if environment.generates and not self.keeps_cache:
            able = [name for name in names() if runtime(name).keeps_cache]
            raise RecipeError(
                f"the runtime {self.name} keeps no key-value cache, which the regime generation needs; use "
                f"{' or '.join(able)}"
            )
        self.check_installed()
        if environment.device.partition(":")[0] not in self.devices:
            raise RecipeError(f"runtime {self.name} runs on {' and '.join(self.devices)}, not on {environment.device}")
        if environment.dtype not in self.dtypes:
            raise RecipeError(f"runtime {self.name} runs in {' and '.join(self.dtypes)}, not in {environment.dtype}")

    def check_installed(self) -> None:
        """Check that the packages of the runtime are installed.

        Raises:
            RecipeError: one is missing.
        """
        self._require(self.packages, self.extra)

    def _require(self, packages: Sequence[str], extra: str) -> None:
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            raise RecipeError(
                f"runtime {self.name} needs {' and '.join(missing)}, which is not installed; "
                f'use pip install "secateurs[{extra}]"'
            )

    def module_dtype(self, environment: Environment) -> torch.dtype:
        """Data type in which ``prepare`` is given models and batches."""
        return getattr(torch, environment.dtype)

    @abstractmethod
    def prepare(self, model: nn.Module, environment: Environment, example: Mapping[str, Any]) -> Execute:
        """Make a model ready to run.

        Args:
            model: model, or part of one; it stays unchanged.
            environment: device, data type and number of threads.
            example: a batch of the kind that will be run; a whole model may be run on other batch sizes and lengths.

        Raises:
            UnsupportedModelError: this runtime cannot run the model.
        """


class FileRuntime(Runtime):
    """A runtime that executes files. Models are given in float32; the file runs in the data type of the environment.

    Attributes:
        files: names of the files that ``export`` writes; ``load`` is given the folder.
    """

    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    files: ClassVar[tuple[str, ...]] = ()

    def module_dtype(self, environment: Environment) -> torch.dtype:
        """float32: a lower precision is chosen when the file is loaded."""
        return torch.float32

    def check_int8(self) -> None:
        """Check that ``export`` can write int8 here.

        Raises:
            RecipeError: this runtime has no int8 export, or a package for it is missing.
        """
        raise RecipeError(f"runtime {self.name} has no export in int8; onnx and openvino have")

    @abstractmethod
    def export(self, model: Traced, folder: Path) -> None:
        """Write the files of a model.

        Args:
            model: model in float32, with inputs to trace it with; with ``calibration`` it is written in int8.
            folder: existing folder.

        Raises:
            UnsupportedModelError: the model cannot be exported.
        """

    @abstractmethod
    def load(self, folder: Path, environment: Environment) -> Execute:
        """Load the files that ``export`` wrote. The result is given tensors by the names of the inputs of the file.

        Args:
            folder: folder of the files.
            environment: data type and number of threads.
        """

    def prepare(self, model: nn.Module, environment: Environment, example: Mapping[str, Any]) -> Execute:
        """Export the model into a temporary folder, and load it from there."""
        self.check(environment)
        plain = traced(model, example)
        with tempfile.TemporaryDirectory(prefix="secateurs-", ignore_cleanup_errors=True) as folder:
            self.export(plain, Path(folder))
            execute = self.load(Path(folder), environment)
        return lambda batch: execute(plain.feed(batch))


_RUNTIMES: dict[str, Runtime] = {}

Kind = TypeVar("Kind", bound=type[Runtime])


def register(name: str) -> Callable[[Kind], Kind]:
    """Decorator that registers a class as the runtime ``name``.

    Args:
        name: name of the runtime in recipes and latency tables.
    """

    def keep(kind: Kind) -> Kind:
        made: Runtime = kind()  # pyright: ignore[reportAssignmentType]
        kind.name, _RUNTIMES[name] = name, made
        return kind

    return keep


def names() -> list[str]:
    """Names of all runtimes, sorted."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_RUNTIMES)


def runtime(name: str) -> Runtime:
    """The runtime with the given name.

    Args:
        name: name of the runtime.

    Raises:
        RecipeError: there is no runtime of that name.
    """
    known = names()
    if name not in _RUNTIMES:
        raise RecipeError(f"runtime {name!r} is unknown; choose one of: {', '.join(known)}")
    return _RUNTIMES[name]
