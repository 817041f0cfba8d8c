"""gearshift for Lightning: any strategy of gearshift's in a Trainer.

::

    from lightning.pytorch import Trainer
    from gearshift.torch.lightning import GearshiftStrategy

    trainer = Trainer(accelerator="cpu", devices=4, strategy=GearshiftStrategy("ps:asp"))
    trainer.fit(module, loader)

``Trainer(strategy="gearshift")`` takes the strategy that the job was started with, or All-Reduce.
Works with the package ``lightning`` and with ``pytorch_lightning``: the one that was imported
before, else the one that is installed.
"""

from __future__ import annotations

from ._environment import GearshiftEnvironment
from ._package import trainer as _trainer
from ._strategy import GearshiftStrategy

_trainer.strategies.StrategyRegistry.register(
    GearshiftStrategy.strategy_name,
    GearshiftStrategy,
    description="gearshift's: All-Reduce, a parameter server, local SGD, or a switch between them",
    override=True,
)

__all__ = ["GearshiftEnvironment", "GearshiftStrategy"]
