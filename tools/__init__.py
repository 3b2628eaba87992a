"""Commands beyond the daily three, such as `python -m tools.draw`."""
