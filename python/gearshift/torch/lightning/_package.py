"""Which of Lightning's two packages the program uses: ``lightning``, or ``pytorch_lightning``.

Both have the same classes, and neither takes those of the other.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_PACKAGES = (("lightning.pytorch", "lightning.fabric"), ("pytorch_lightning", "lightning_fabric"))
"""Each with its part that knows of devices and clusters."""


def _find() -> tuple[ModuleType, ModuleType]:
    """The one that is imported, else the one that is installed; the first of two.

    Raises:
        ImportError: when there is none.
    """
    imported = [names for names in _PACKAGES if names[0] in sys.modules]
    installed = [
        names for names in _PACKAGES if importlib.util.find_spec(names[0].split(".")[0]) is not None
    ]
    for trainer, fabric in imported or installed:
        return importlib.import_module(trainer), importlib.import_module(fabric)
    raise ImportError("gearshift.torch.lightning needs Lightning: pip install lightning")


trainer, fabric = _find()
# Which a type checker need not find.
ClusterEnvironment: Any = fabric.plugins.environments.ClusterEnvironment
DDPStrategy: Any = trainer.strategies.DDPStrategy


def misconfiguration() -> type[Exception]:
    """What Lightning raises for what it cannot do."""
    found: type[Exception] = fabric.utilities.exceptions.MisconfigurationException
    return found
