"""Language models that recommend: SeqIO tasks, training, decoding and honest evaluation.

Importing the package reads no file and registers nothing; `import recllm_tasks.mixtures` registers.
"""

__version__ = "0.1.0"
