"""Use cases for studies, different in kind, on real data that needs no download.

=================  ==========================  =========================  ========
module             model                       data                       rule
=================  ==========================  =========================  ========
``fashion_mnist``  convolutions                pictures of clothing       momentum
``digits``         dense layers                handwritten digits         SGD
``text``           a small causal transformer  the characters of a book   AdamW
``movielens``      matrix factorisation        people's ratings of films  Adagrad
=================  ==========================  =========================  ========

A study names one as "gearshift.study.tasks.digits"; so does ``gearshift simulate --train``. Beside
the function ``training`` a module says what a study needs to know unless it is told otherwise:

``TITLE``      what is trained, for people
``BATCH``      samples per worker and step
``SAMPLES``    that all workers together learn from
``METRIC``     what ``evaluate`` returns, for people
``TARGET``     the metric whose time is asked for; one process gets there about half-way
``FORWARD``, ``BACKWARD``, ``OPTIMIZER``  what a step takes on one core of a server, as text
"""

from __future__ import annotations
