"""The ABI: every format that crosses between hardware, firmware and host, declared once.

Plain Python, importable without Amaranth. The gateware builds its structures and registers from these tables, the C
header and the register page are generated from them (:mod:`twinstack.proto.export`), and the host library packs and
unpacks with them. ``tests/unit/proto/test_frozen.py`` freezes all of it.
"""
