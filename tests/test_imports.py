"""Imports: no cycles among modules, including imports inside functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter

import grimp

"""Groups of modules that still import each other. Remove a group when it is resolved; add none."""


def find_cycle(
    imports: Mapping[str, Collection[str]], known: Collection[frozenset[str]] = ()
) -> list[str] | None:
    """Return one cycle among the modules, or None; imports within a known group do not count."""
    others = {
        module: {target for target in targets if not any({module, target} <= group for group in known)}
        for module, targets in imports.items()
    }
    try:
        TopologicalSorter(others).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return None


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph("precast", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    assert find_cycle(imports) is None, "move what these modules share to a module of its own"


def test_cycles_are_found() -> None:
    imports = {"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}
    assert find_cycle({**imports, "c": []}) is None
    cycle = find_cycle(imports)
    assert cycle is not None and set(cycle) == {"a", "b", "c"}
    assert find_cycle(imports, [frozenset("ab")]) is None
    assert find_cycle(imports, [frozenset("ad")]) is not None
