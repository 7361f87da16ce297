"""Lattice ECP5 Versa with an LFE5UM-45F, speed grade 8: the 5G board's older variant, alike but for the device."""

from __future__ import annotations

from dataclasses import replace

from amaranth_boards.versa_ecp5 import VersaECP5Platform

from . import versa_ecp5_5g

BOARD = replace(versa_ecp5_5g.BOARD, name="versa_ecp5", platform=VersaECP5Platform)
