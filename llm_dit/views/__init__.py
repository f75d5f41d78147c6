"""Figures, widgets and the Playground."""
