"""Training, evaluation and inference through T5X, on TPU pods and GPU clusters.

`python -m recllm_tasks.t5x_bridge train|eval|infer` runs T5X's own programs with our gin files.
Only this package imports T5X, and importing it alone does not.
"""
