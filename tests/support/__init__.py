"""Shared by the tests: runners, bus models, reference models that are not the product's."""
