"""Losses that make a prior. Knows torch only; trainers live at the edge (``medrecon.engines``)."""
