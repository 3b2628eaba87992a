"""Tests, and three longer checks: python -m tests.kill, tests.fuzz, tests.soak."""
