"""What all readers of data sets raise."""

from __future__ import annotations


class DatasetError(Exception):
    """The data set is missing or damaged; the message says where, and what to do."""
