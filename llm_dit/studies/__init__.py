"""Sweeps: what they measure, where results are kept, and how they run on several machines."""
