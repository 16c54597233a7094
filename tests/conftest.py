"""Fixtures shared by all tests: CPU, no network, no weights."""
