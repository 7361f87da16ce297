"""The engine under Verilator: Python API over the compiled model, wire models, peers, command line."""
