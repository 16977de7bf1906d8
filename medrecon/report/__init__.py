"""Figures of reconstructions."""
