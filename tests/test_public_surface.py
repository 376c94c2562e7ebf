"""The public surface, and what importing it brings along."""

from __future__ import annotations

import dataclasses
import inspect
import queue
import subprocess
import sys
from importlib import import_module

import precast
import precast.runtime
from precast.runtime.options import LoadOptions


def run(script: str) -> str:
    """The standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_names_are_sorted_and_resolve() -> None:
    for module in (precast, precast.runtime):
        assert list(module.__all__) == sorted(module.__all__)
        assert all(callable(getattr(module, name)) for name in module.__all__)
    assert set(precast.__all__) <= set(dir(precast))


def test_every_error_is_exported() -> None:
    """The whole tree below PrecastError, wherever a class of it is defined."""
    modules = [f"precast.{room}.errors" for room in ("graphs", "artifacts", "runtime", "compiler")]
    defined = {
        name
        for module in map(import_module, modules)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, precast.PrecastError)
    }
    assert defined == {name for name in precast.__all__ if name.endswith("Error")}
    assert issubclass(precast.RequestTimeoutError, TimeoutError)
    assert issubclass(precast.QueueFullError, queue.Full)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(precast, "embed")


def test_load_takes_the_options_of_load_options() -> None:
    """Written twice, for help and type checkers; with the same names, types, defaults and words."""
    parameters = list(inspect.signature(precast.load).parameters.values())[1:]
    expected = [(field.name, field.type, field.default) for field in dataclasses.fields(LoadOptions)]
    assert [(one.name, one.annotation, one.default) for one in parameters] == expected
    assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in parameters)
    described = inspect.cleandoc(LoadOptions.__doc__ or "").split("Attributes:\n")[1].split("\n\nRaises:")[0]
    assert described in inspect.cleandoc(precast.load.__doc__ or "")


def test_methods_have_a_signature_and_a_docstring_of_their_own() -> None:
    for engine in (precast.Encoder, precast.Seq2Seq, precast.AsyncEncoder, precast.AsyncSeq2Seq):
        methods = [
            value for name, value in vars(engine).items() if inspect.isfunction(value) and name[0] != "_"
        ]
        assert methods and all(method.__doc__ and not hasattr(method, "__wrapped__") for method in methods)


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
