"""``gearshift demo``: one model, one data set, three strategies, and what was measured."""

from __future__ import annotations

STRATEGIES = ("all_reduce", "parameter_server", "strategy_switch")
"""The strategies that the demo compares, in the order in which it runs them."""
