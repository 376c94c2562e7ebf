"""The public surface, and what importing it brings along."""

from __future__ import annotations

import subprocess
import sys

import precast
import precast.runtime


def run(script: str) -> str:
    """The standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_names_are_sorted_and_resolve() -> None:
    for module in (precast, precast.runtime):
        assert list(module.__all__) == sorted(module.__all__)
        assert all(callable(getattr(module, name)) for name in module.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(precast, "embed")


def test_importing_precast_imports_nothing_heavy() -> None:
    found = run("import precast, sys; print([n for n in ('torch', 'numpy', 'pydantic') if n in sys.modules])")
    assert found == "[]"


def test_importing_the_compiler_package_does_not_import_transformers() -> None:
    assert run("import precast.compiler, sys; print('transformers' in sys.modules)") == "False"


def test_compiling_without_transformers_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['transformers'] = None\n"
        "import importlib.util as u; found = u.find_spec\n"
        "import precast.compiler as c\n"
        "c.find_spec = lambda name: None if name == 'transformers' else found(name)\n"
        "try: c.compile('x', 'y')\n"
        "except c.CompileError as error: print(error)\n"
    )
    assert "pip install 'precast[compile]'" in run(script)
