"""The rules of STYLE.md and docs/design.md that a machine can check."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULES = sorted(Path("scaler").rglob("*.py"))
HEAVY = ("docker", "kubernetes", "redis", "psycopg", "aiohttp", "pydantic", "psutil", "apscheduler")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    if path.name == "__init__.py":
        assert text == "", "packages are empty; nothing is imported by accident"
        return
    assert len(text.splitlines()) < 500
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_functions_fit_on_a_screen(path: Path) -> None:
    for function in functions(ast.parse(path.read_text())):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines < 70, f"{function.name} has {lines} lines"


def test_no_drawer_is_named_after_nothing() -> None:
    banned = {"utils", "util", "helpers", "common", "misc", "base", "models", "services"}
    assert not {path.stem for path in MODULES} & banned


def test_bugs_are_caught_in_three_places_only() -> None:
    catching = {
        str(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and isinstance(node.type, ast.Name)
        and node.type.id == "Exception"
    }
    assert catching == {"scaler/errors.py", "scaler/engine/jobs.py", "scaler/api/server.py"}


def test_the_imports_point_downwards() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([tool, "--no-logo"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_what_is_heavy_is_imported_by_those_who_need_it() -> None:
    code = (
        "import sys; from scaler.cli import commands; "
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_a_daemon_with_local_policies_imports_no_other_platform() -> None:
    code = (
        "import sys; import scaler.daemon, scaler.api.server, scaler.stores.sqlite; "
        "import scaler.providers.local, scaler.sources.local; "
        "print(*[name for name in ('docker', 'kubernetes', 'redis', 'psycopg') "
        "if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_no_committed_requirement_names_an_address() -> None:
    for path in Path("requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text
        assert "--hash=sha256:" in text
    assert not Path("uv.lock").exists()
