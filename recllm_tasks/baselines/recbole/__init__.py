"""RecBole's models as rows of the table of results.

RecBole 1.2.1 needs older packages than ours, so it has an environment of its own
(launch/install_baselines.sh), and `process` runs there as a process of its own. We write what it
may see (`exported.py`): the train split as an atomic file, and of each evaluated user the history,
the target and the candidates. It writes back scores and lists in Parquet, from which the metrics
are ours (`training.py`). What can be run is in `models.py`.
"""
