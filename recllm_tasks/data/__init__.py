"""Raw files to a stored dataset: specs, readers, sequences, catalog, TFDS builder."""
