"""Proof that a prepared dataset, and every task over it, gives nothing held out away."""
