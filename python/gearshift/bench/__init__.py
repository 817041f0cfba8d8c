"""``gearshift bench``: ours and the peers, in turn, verified, with the spread of the ratio.

* :mod:`gearshift.bench.registry` holds the cases, as data.
* :mod:`gearshift.bench.driver` runs them; :mod:`gearshift.bench.side` starts the processes of one
  side and gives it its turns, :mod:`gearshift.bench.hosts` makes hosts out of network namespaces.
* :mod:`gearshift.bench.results` sums up, :mod:`gearshift.bench.table` and
  :mod:`gearshift.bench.plot` show it.
* :mod:`gearshift.bench.gate` is what the measured programs in ``bench/`` use.
"""
