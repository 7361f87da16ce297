"""Every proof tells how far it reaches."""

from support import formal


def pytest_terminal_summary(terminalreporter):
    lines = formal.summary()
    if lines:
        terminalreporter.section("proofs; a FAIL is a planted fault that was found")
        for line in lines:
            terminalreporter.write_line(line)
