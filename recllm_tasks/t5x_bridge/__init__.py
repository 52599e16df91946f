"""Training, evaluation and inference through T5X, on TPU pods and GPU clusters.

`python -m recllm_tasks.t5x_bridge train|eval|infer` starts T5X's own programs with our gin files.
Only this package imports T5X; importing the package itself does not.
"""
