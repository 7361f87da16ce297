import sys; sys.path.insert(0,'tests')
from tests.firmware.test_boot import *
core = Core((BUILD / 'sockets' / "firmware.img").read_bytes())
try:
    core.run(lambda core: core.registers.get(core.ready, 0) >> 31)
except AssertionError as e:
    print(e, hex(core.pc), [hex(v) for v in core.x], core.console)
