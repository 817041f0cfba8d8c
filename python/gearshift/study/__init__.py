"""Strategies compared over use cases and clusters: what ``gearshift study`` runs and reports.

A study is a file that names use cases (what is trained), clusters (where) and strategies (how).
Each combination is a *cell*, which is simulated or, on links shaped on this machine, measured:

``cell``       what a cell is, and what its run found
``study_file`` the file that people write
``store``      the folder with what the cells found
``tasks``      use cases that come with gearshift
``report``     the analysis, the figures, and the document
"""

from __future__ import annotations
