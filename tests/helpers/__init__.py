"""Shared by the tests. No module here holds a test, and no test module is imported."""
