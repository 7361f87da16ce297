"""The generated files agree with the tables and the C compiler."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess

import pytest

from twinstack.config import EngineConfig
from twinstack.proto import export, registers
from twinstack.proto.descriptor import RX_DESCRIPTOR
from twinstack.proto.layout import Layout
from twinstack.proto.memory_map import CSR_CORE_BASE


def test_header_is_deterministic_and_complete():
    text = export.c_header()
    assert text == export.c_header()
    for layout in export.LAYOUTS:
        for field in layout:
            assert f"#define TS_{layout.name.upper()}_{field.name.upper()}_WORD {field.word}u" in text
    for block in registers.BLOCKS:
        for register in block.registers:
            assert f"#define TS_{block.name.upper()}_{register.name.upper()}" in text
            assert register.doc in text


def test_header_compiles_and_evaluates(tmp_path):
    compiler = shutil.which("gcc")
    assert compiler, "the tests need a C compiler"
    export.write_all(tmp_path, EngineConfig())
    source = tmp_path / "check.c"
    source.write_text(
        "#include <stdint.h>\n#include <stdio.h>\n"
        '#include "twinstack_abi.h"\n#include "twinstack_config.h"\n'
        "int main(void) {\n  uint32_t words[TS_RX_DESCRIPTOR_WORDS] = {0};\n"
        "  words[TS_RX_DESCRIPTOR_PAYLOAD_LENGTH_WORD] |= TS_PUT(TS_RX_DESCRIPTOR_PAYLOAD_LENGTH, 0x1234);\n"
        "  words[TS_RX_DESCRIPTOR_OWNER_WORD] |= TS_PUT(TS_RX_DESCRIPTOR_OWNER, 1);\n"
        '  for (unsigned i = 0; i < TS_RX_DESCRIPTOR_WORDS; i++) printf("%08x ", words[i]);\n'
        '  printf("%x %x %x %u %x", TS_MESSAGE_SEND_WORD(2), TS_MAC_CONTROL(1), TS_LOCK_LOCK(3), TS_CONFIG_RX_BUFFERS,\n'
        "         (unsigned)TS_WORD_GET(words, TS_RX_DESCRIPTOR_PAYLOAD_LENGTH));\n  return 0;\n}\n"
    )
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "check", source], check=True)
    words = subprocess.run([tmp_path / "check"], check=True, capture_output=True, text=True).stdout.split()
    packed = RX_DESCRIPTOR.pack({"payload_length": 0x1234, "owner": 1})
    assert b"".join(int(word, 16).to_bytes(4, "little") for word in words[:16]) == packed
    assert int(words[16], 16) == CSR_CORE_BASE + registers.register_offset(registers.MESSAGE, "send_word", index=2)
    assert int(words[17], 16) == 0xF001_0000 + registers.register_offset(registers.MAC, "control", instance=1)
    assert int(words[18], 16) == CSR_CORE_BASE + registers.register_offset(registers.LOCK, "lock", index=3)
    assert int(words[19]) == EngineConfig().rx_buffers
    assert int(words[20], 16) == 0x1234


def test_linker_memory_follows_the_configuration():
    text = export.linker_memory(EngineConfig(code_bytes=64 * 1024, data_bytes=20 * 1024))
    assert "ORIGIN = 0x00000000, LENGTH = 65536" in text
    assert "ORIGIN = 0x10000000, LENGTH = 20480" in text


def test_register_page_contains_every_text():
    page = export.register_page()
    for block in registers.BLOCKS:
        assert block.doc.replace("|", "\\|") in page
        for register in block.registers:
            assert register.doc.replace("|", "\\|") in page
            for field in register.fields:
                assert field.doc.replace("|", "\\|") in page


def test_an_empty_text_fails_the_export(monkeypatch):
    layout = dataclasses.replace(RX_DESCRIPTOR)
    object.__setattr__(layout, "doc", " ")
    assert isinstance(layout, Layout)
    monkeypatch.setattr(export, "LAYOUTS", (layout,))
    with pytest.raises(export.ExportError, match="needs a text, not ' '"):
        export.c_header()


def test_a_name_used_twice_fails_the_export(monkeypatch):
    monkeypatch.setattr(export, "LAYOUTS", (RX_DESCRIPTOR, RX_DESCRIPTOR))
    with pytest.raises(export.ExportError, match="must be unique"):
        export.c_header()


def test_command_line(tmp_path):
    export.main(["--out", str(tmp_path), "--set", "data_bytes=0xC000"])
    assert "LENGTH = 49152" in (tmp_path / "memory.ld").read_text()
    with pytest.raises(SystemExit):
        export.main(["--out", str(tmp_path), "--set", "no_such_parameter=1"])
