"""Twinstack gateware: an FPGA TCP/IP socket co-processor.

Importing this package is cheap and needs no HDL tool: :mod:`twinstack.proto` (the ABI) is plain Python. The gateware
modules (:mod:`twinstack.engine` and those beside it) import Amaranth.
"""
