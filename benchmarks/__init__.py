"""Speed and memory, compared with the original's algorithm: ``python -m benchmarks``.

``subjects.py`` lists the benchmarks, each a module here with ``TITLE`` and ``cases(settings)``.
``harness/`` measures them, ``original/`` has the baselines, ``RESULTS.md`` has results.
"""
