"""Reference models in plain Python, for tests and tools; none of them needs Amaranth."""
