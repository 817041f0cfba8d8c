"""The place of this process, for Lightning: what gearshift knows of the job's launcher."""

from __future__ import annotations

import os
from typing import Any

from ...errors import InvalidArgument
from ...launch import LaunchError
from ...launch.environment import ProcessEnvironment, detect
from . import _package


def place_of_process() -> ProcessEnvironment | None:
    """None where no launcher has started it: Lightning starts the others then."""
    try:
        found = detect()
    except LaunchError as error:
        raise InvalidArgument(str(error)) from error
    return None if found.launcher == "none" else found


def place_by_lightning(cluster: Any, devices: int, nodes: int) -> ProcessEnvironment:
    """The same for a process of Lightning's own launcher: they meet as by ``env://``."""
    said = {
        "RANK": cluster.global_rank(),
        "WORLD_SIZE": devices * nodes,
        "LOCAL_RANK": cluster.local_rank(),
        "LOCAL_WORLD_SIZE": devices,
        "MASTER_ADDR": cluster.main_address,
        "MASTER_PORT": cluster.main_port,
    }
    try:
        return detect({**os.environ, **{name: str(value) for name, value in said.items()}})
    except LaunchError as error:
        raise InvalidArgument(str(error)) from error


class GearshiftEnvironment(_package.ClusterEnvironment):
    """A cluster environment of Lightning's: the workers of a job that a launcher has started.

    Args:
        place: of this process.
    """

    def __init__(self, place: ProcessEnvironment) -> None:
        super().__init__()
        self._place = place
        self.set_global_rank(place.rank)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        """Not where they meet: `gs.init` knows that."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        return place_of_process() is not None

    def world_size(self) -> int:
        return self._place.world_size - self._place.servers

    def set_world_size(self, size: int) -> None:
        """It is the launcher's."""

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        """It is the launcher's; Lightning prints on rank 0 from here on."""
        _package.fabric.utilities.rank_zero_only.rank = self._place.rank

    def local_rank(self) -> int:
        return self._place.local_rank

    def node_rank(self) -> int:
        return self._place.node_rank
