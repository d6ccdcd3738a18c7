"""Finished months: sealed, exported, verified, recorded, dropped, and brought back."""
