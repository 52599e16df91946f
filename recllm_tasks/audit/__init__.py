"""Proof that a prepared dataset and every task over it leak nothing that is held out."""
