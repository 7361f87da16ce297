"""The text that test models are cached by is the same in each process."""

import os
import re
import subprocess
import sys

from support.rtl import TESTS, stable_verilog

CONVERT = """
import sys
from amaranth.back import verilog
from twinstack.mac import Mac
sys.stdout.write(verilog.convert(Mac(), name="mac", strip_internal_attrs=True))
"""


def convert(hash_seed: int) -> str:
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run(
        [sys.executable, "-c", CONVERT], cwd=TESTS, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_string_hashes_do_not_show():
    one, other = convert(1), convert(2)
    assert stable_verilog(one) == stable_verilog(other)
    assert words(stable_verilog(one)) == words(one), "more than the order changed"


def words(text: str) -> list[str]:
    return sorted(re.findall(r"[^\s,();]+", text))


def test_only_headers_change():
    body = "  input z;\n  f g(z, y);\nendmodule\n"
    text = "module \\a.b (z, \\r$1 \n, c);\n" + body + "module x();\n"
    assert stable_verilog(text) == "module \\a.b (\\r$1 , c , z );\n" + body + "module x( );\n"
