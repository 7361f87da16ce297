"""Boards: pins, clocks, builds and bitstreams."""
