"""How Inductor's C++ is compiled: in parallel, and to libraries that ``dlclose`` can unload.

By default Inductor compiles the objects of a graph one after the other, and its libraries are never unloaded:
glibc keeps a library for the life of the process if it has an STB_GNU_UNIQUE symbol, and for the life of each
thread for which it has registered a destructor.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

from torch._inductor import codecache, config, cpp_builder
from torch._inductor.codegen import cpp

_CFLAGS = 2
"""Index of the compiler flags in the tuple that ``get_cpp_options`` returns."""
_OBJECTS = (".wrapper.cpp", ".kernel.cpp")
"""Sources whose objects are only needed by the linker."""
_LAST_ERROR = "static thread_local std::string g_aoti_last_error;"
"""The last error of a thread (torch 2.13). A string has a destructor, an array does not."""
_LAST_ERROR_WITHOUT_DESTRUCTOR = """
struct LastError {
  char text[4096];
  void clear() { text[0] = 0; }
  const char* c_str() const { return text; }
  LastError& operator=(const char* reason) {
    size_t length = 0;
    while (length + 1 < sizeof(text) && reason[length] != 0) {
      text[length] = reason[length];
      ++length;
    }
    text[length] = 0;
    return *this;
  }
};
static thread_local LastError g_aoti_last_error;
"""


class _Build(threading.local):
    """The graph that this thread is compiling.

    Attributes:
        objects: its objects; None outside of ``cpp_build``.
        optimize: whether to spend time on kernels.
    """

    objects: list[Future[None]] | None = None
    optimize: bool = True


_build = _Build()


@contextmanager
def cpp_build(optimize: bool = True) -> Iterator[None]:
    """Apply this module to the graph that this thread compiles.

    Args:
        optimize: whether to spend time on kernels; otherwise g++ gets -O2 and outer loops are not fused.
    """
    _install()
    _build.objects, _build.optimize = [], optimize
    try:
        yield
    finally:
        objects, _build.objects = _build.objects, None
        for compiled in objects:
            compiled.exception()  # waits; linking has raised the error


@cache
def _install() -> None:
    """Wrap Inductor's functions once; outside of ``cpp_build`` they are unchanged."""
    cpp_builder.get_cpp_options = _with_flags(cpp_builder.get_cpp_options)
    compiler: Any = codecache.AotCodeCompiler
    compiler.compile = _without_destructor(compiler.compile)
    builder: Any = cpp_builder.CppBuilder
    builder.build = _in_threads(builder.build)
    scheduling: Any = cpp.CppScheduling
    scheduling._get_outer_loop_fusion_depth = _unless_quick(scheduling._get_outer_loop_fusion_depth)


def _with_flags(options: Any) -> Any:
    @wraps(options)
    def with_flags(*args: Any, **kwargs: Any) -> Any:
        found = options(*args, **kwargs)
        if _build.objects is not None and cpp_builder._is_gcc(cpp_builder.get_cpp_compiler()):
            flags = found[_CFLAGS]
            if not _build.optimize:
                flags[:] = ["O2" if flag == "O3" else flag for flag in flags]
            flags.append("fno-gnu-unique")
        return found

    return with_flags


def _unless_quick(fusion_depth: Any) -> Any:
    """Fuse outer loops only if time is to be spent: Inductor generates the code of their kernels twice."""

    @wraps(fusion_depth)
    def unless_quick(scheduling: Any, first: Any, second: Any) -> int:
        quick = _build.objects is not None and not _build.optimize
        depth: int = 0 if quick else fusion_depth(scheduling, first, second)
        return depth

    return unless_quick


def _without_destructor(compile_source: Any) -> Any:
    @wraps(compile_source)
    def without_destructor(graph: Any, source: str, *args: Any, **kwargs: Any) -> Any:
        if _build.objects is not None:
            source = source.replace(_LAST_ERROR, _LAST_ERROR_WITHOUT_DESTRUCTOR)
        return compile_source(graph, source, *args, **kwargs)

    return without_destructor


def _in_threads(build: Any) -> Any:
    """Compile objects in threads; linking waits for them."""
    threads = ThreadPoolExecutor(thread_name_prefix="precast-cpp")

    @wraps(build)
    def in_threads(builder: Any) -> None:
        objects = _build.objects
        if objects is not None and builder._sources_args.strip().endswith(_OBJECTS):
            objects.append(threads.submit(build, builder))
            return
        while objects and builder._do_link:
            objects.pop(0).result()
        build(builder)

    return in_threads


def fast_settings() -> dict[str, Any]:
    """Return settings of Inductor that save time in the C++ compiler and do not change what it computes."""
    wanted = {
        # Precompiling the headers takes 11 s and saves 3 s for each graph.
        "aot_inductor.precompile_headers": False,
        "cpp_cache_precompile_headers": False,
        # Debug information, and a register that is kept for profilers.
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.enable_frame_pointer": False,
        # Otherwise a test library is built for each instruction set that the processor has.
        "cpp.vec_isa_ok": True,
    }
    known = config.get_config_copy()
    return {name: value for name, value in wanted.items() if name in known}
