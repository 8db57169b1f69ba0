"""The benchmark: how fast each stage and the whole is, and what that costs.

Nothing but mien is needed: the footage is drawn. :func:`mien.bench.measuring.measure` makes a
report, each measurement in a process of its own; :mod:`mien.bench.report` turns it into words, and
:mod:`mien.bench.writing` into files. ``docs/bench.md`` says what each figure means.
"""
