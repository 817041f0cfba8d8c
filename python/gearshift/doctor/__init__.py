"""``gearshift doctor``: what is wrong with a machine, or between the machines of a job.

* Alone it looks at this machine (:mod:`gearshift.doctor.alone`): one file per kind of thing to look
  at, each with a value that collects facts and a function that judges them, so that tests can make
  up the facts; then it starts a world of two (:mod:`gearshift.doctor.trial`).
* In a job (:mod:`gearshift.doctor.together`) the processes first meet at the rendezvous alone
  (:mod:`gearshift.doctor.meeting`), so that one which is missing, or is behind a firewall, or has
  another version, is named; then they form a session and measure links and ranks.
* :mod:`gearshift.doctor.command` does either, and prints or writes what came of it.

PyTorch is not needed; without the compiled core, the other checks are still made.
"""
