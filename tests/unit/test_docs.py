"""The documentation is in step with the code: generated parts, names of files, links, make targets."""

from __future__ import annotations

import ast
import importlib.util
import re
import textwrap
from pathlib import Path

import pytest

from twinstack.config import EngineConfig
from twinstack.proto import memory_map
from twinstack.proto.abi import ABI_VERSION, MAGIC
from twinstack.proto.image import IMAGE_MAGIC
from twinstack.proto.queues import ALL_CORES, Operation
from twinstack.proto.registers import BLOCKS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "firmware" / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
FOLDERS = "hdl|firmware|sim|boards|host|tests|docs"
CODE = re.compile(r"`([^`]+)`")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def update():
    spec = importlib.util.spec_from_file_location("docs_update", ROOT / "docs" / "update.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def spans_of(page: Path) -> list[str]:
    """Code spans of a page; a span may go on in the next line."""
    return [" ".join(code.split()) for code in CODE.findall(prose_of(page))]


def headings(page: Path) -> set[str]:
    """Anchors of a page, as Markdown renderers make them."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def make_targets(makefile: Path) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text_of(makefile), re.MULTILINE))


def make_calls(page: Path) -> set[str]:
    """Targets that a page tells to make: ``make NAME`` at the start of a code span or of a line in a code block."""
    spans = spans_of(page)
    lines = [line.removeprefix("$ ") for block in FENCE.findall(text_of(page)) for line in block.splitlines()]
    return {match[1] for code in spans + lines if (match := re.match(r"make ([a-z][a-z-]*)\b", code))}


def test_generated_parts_are_up_to_date(update):
    stale = [page.name for page in update.documents() if update.updated(text_of(page)) != text_of(page)]
    assert not stale, f"run python docs/update.py: {stale}"


def test_every_generated_part_is_on_a_page(update):
    used = [match[2] for page in update.documents() for match in update.PARTS.finditer(text_of(page))]
    assert set(used) == set(update.GENERATORS)
    opened = sum(text_of(page).count("<!-- generated:") for page in update.documents())
    assert opened == len(used), "a generated part has no end"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page):
    missing = []
    for code in spans_of(page):
        for name in re.findall(rf"(?<![\w/.])((?:{FOLDERS})/[\w./*-]*)", code):
            name = name.rstrip(".").replace("NAME", "*")
            if not any(ROOT.glob(name.removesuffix("/"))):
                missing.append(name)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    broken = []
    for target in LINK.findall(prose_of(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in headings(path)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist(page):
    assert not make_calls(page) - make_targets(ROOT / "Makefile")


def test_readme_names_the_packages_that_make_wants():
    text = text_of(ROOT / "Makefile")
    wanted = [line for line in text.splitlines() if re.match(r"(LINT_)?PACKAGES :=", line)]
    packages = [pair.partition(":")[2] for line in wanted for pair in line.partition(":= ")[2].split()]
    assert " ".join(packages) in spans_of(ROOT / "README.md")


def test_readme_names_all_pages_and_the_main_targets():
    readme = text_of(ROOT / "README.md")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in readme
    assert {"demo", "test", "check", "nightly"} <= make_calls(ROOT / "README.md")
    assert len(readme.splitlines()) <= 160


def test_blocks_in_the_architecture_exist():
    text = text_of(ROOT / "docs" / "architecture.md")
    for name in set(re.findall(r"`(\w+\.py)`", text)):
        assert any(ROOT.glob(f"hdl/twinstack/**/{name}")) or any(ROOT.glob(f"boards/*/{name}")), name
    for source in (ROOT / "hdl" / "twinstack").glob("*.py"):
        tree = ast.parse(text_of(source))
        if any(
            isinstance(node, ast.ClassDef) and "wiring.Component" in map(ast.unparse, node.bases) for node in tree.body
        ):
            assert f"`{source.name}`" in text, f"{source.name} is missing in docs/architecture.md"


def test_default_parameters_are_those_of_the_configuration():
    text = text_of(ROOT / "docs" / "architecture.md")
    for name, value in vars(EngineConfig()).items():
        assert re.search(rf"\| `{name}` \| {value:,} \|", text), f"{name} must be {value:,}"


def test_host_interface_names_what_there_is():
    text = text_of(ROOT / "docs" / "host-interface.md")
    for value in (MAGIC, IMAGE_MAGIC):
        assert f"{value:#010x}".upper().replace("0X", "0x") in text
    assert f"ABI version {ABI_VERSION}" in text
    assert f"core {ALL_CORES}" in text
    assert f"{memory_map.HOST_CSR_BYTES:#x}" in text
    registers = {f"{block.name}.{register.name}" for block in BLOCKS for register in block.registers}
    pages = {block.name for block in BLOCKS}
    page = ROOT / "docs" / "host-interface.md"
    named = {code for code in spans_of(page) if code.partition(".")[0] in pages and "." in code}
    assert named, "the page names no register"
    for code in named:
        parts = code.split(".")
        assert ".".join(parts[:2]) in registers, code
        if len(parts) == 3:
            fields = {
                field.name
                for block in BLOCKS
                for register in block.registers
                if (block.name, register.name) == (parts[0], parts[1])
                for field in register.fields
            }
            assert parts[2] in fields, code


def test_every_operation_of_the_firmware_is_described(update):
    text = text_of(ROOT / "docs" / "host-interface.md")
    headings_of = re.findall(r"^### ((?:`\w+`(?:, )?)+)$", text, re.MULTILINE)
    described = {name for heading in headings_of for name in re.findall(r"\w+", heading)}
    implemented = {operation.name for operation in Operation} - update.refused_operations()
    assert implemented <= described
    assert not described - {operation.name for operation in Operation}


def test_error_numbers_are_those_of_the_firmware():
    sizes = text_of(ROOT / "firmware" / "include" / "sizes.h")
    known = {f"E{name}": int(value) for name, value in re.findall(r"#define E_(\w+) +(\d+)", sizes)} | {"ENODEV": 19}
    rows = re.findall(r"^\| `-(E\w+)` \| (\d+) \|", text_of(ROOT / "docs" / "host-interface.md"), re.MULTILINE)
    assert rows
    assert {name: int(value) for name, value in rows}.items() <= known.items()


def test_claim_marks_are_found(update, tmp_path):
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_one.py").write_text(
        textwrap.dedent(
            """
            import pytest

            @pytest.mark.claim(1)
            @pytest.mark.claim(11, 31)
            def test_two_marks(): ...

            class TestClass:
                pytestmark = pytest.mark.claim(29)

                def test_inside(self): ...

            def test_without(): ...
            """
        )
    )
    (folder / "test_two.py").write_text(
        "import pytest\npytestmark = [pytest.mark.claim(2)]\ndef test_all(): ...\ndef helper(): ...\n"
    )
    marks = update.claim_marks(folder)
    assert marks == {
        1: ["tests/test_one.py::test_two_marks"],
        11: ["tests/test_one.py::test_two_marks"],
        31: ["tests/test_one.py::test_two_marks"],
        29: ["tests/test_one.py::TestClass::test_inside"],
        2: ["tests/test_two.py::test_all"],
    }
    table = update.claims_table(marks)
    assert "`tests/test_two.py::test_all` (2)<br>not yet: 12, 32 |" in table
    assert table.count("`tests/test_one.py::test_two_marks` |") == 3
    with pytest.raises(ValueError, match=r"live claims, not \[7\]"):
        update.claims_table({7: ["tests/test_one.py::test_two_marks"]})


def test_all_live_claims_are_listed_once(update):
    numbers = [number for group, _ in update.CLAIMS for number in group]
    assert sorted(numbers) == sorted(set(range(1, 47)) - {7, 8, 17, 18, 37, 38})
