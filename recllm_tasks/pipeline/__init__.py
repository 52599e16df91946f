"""Batches of examples, mixed, packed, sharded and resumable: the training input of both engines."""
