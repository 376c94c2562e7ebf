"""How Inductor's C++ is compiled: several files side by side, to libraries that ``dlclose`` can unload.

Inductor compiles the objects of a graph one after the other. And what it compiles is never unloaded: glibc
keeps a library in memory for the life of the process if it has an STB_GNU_UNIQUE symbol, and for the life of
each thread for which it has registered a destructor.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

from torch._inductor import codecache, config, cpp_builder
from torch._inductor.cpu_vec_isa import pick_vec_isa

from precast.compiler.cache_folder import cache_folder

_CFLAGS = 2
"""Index of the compiler flags in the tuple that ``get_cpp_options`` returns."""
_OBJECTS = (".wrapper.cpp", ".kernel.cpp")
"""Sources whose objects nothing reads before they are linked."""
_LAST_ERROR = "static thread_local std::string g_aoti_last_error;"
"""The reason of the last failure in a thread (torch 2.13). A string has a destructor, an array has none."""
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
    """The objects of the graph that this thread compiles; None outside of ``cpp_build``."""

    objects: list[Future[None]] | None = None


_build = _Build()


@contextmanager
def cpp_build() -> Iterator[None]:
    """Compile graphs in this thread as this module's docstring says."""
    _install()
    _build.objects = []
    try:
        yield
    finally:
        objects, _build.objects = _build.objects, None
        for compiled in objects:
            compiled.exception()  # a link that failed has raised it


def warm_headers() -> None:
    """Precompile the headers that all graphs for a CPU include, unless the cache has them."""
    with cpp_build():
        options: dict[str, Any] = {"aot_mode": True, "device_type": "cpu", "vec_isa": pick_vec_isa()}
        builder = cpp_builder.CppBuilder(
            name="o", sources="i", BuildOption=cpp_builder.CppTorchDeviceOptions(**options)
        )
        command = repr(builder.get_command_line())
        more = {"use_mmap_weights": False, "use_mmap_weights_external": False, "use_relative_path": False}
        wrapper = codecache._get_cpp_wrapper_header("cpu", aot_mode=True)
        codecache._precompile_header(wrapper, command, min_optimize=True, **options, **more)
        prefix = codecache._get_cpp_prefix_header("cpu")
        if prefix:
            codecache._precompile_header(prefix, command, **options, **more)


@cache
def _install() -> None:
    """Wrap Inductor's functions once; outside of ``cpp_build`` they do what they did."""
    headers = cache_folder() / "headers"
    codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(headers), str(headers / "locks")
    cpp_builder.get_cpp_options = _with_flag(cpp_builder.get_cpp_options)
    compiler: Any = codecache.AotCodeCompiler
    compiler.compile = _without_destructor(compiler.compile)
    builder: Any = cpp_builder.CppBuilder
    builder.build = _side_by_side(builder.build)


def _with_flag(options: Any) -> Any:
    @wraps(options)
    def with_flag(*args: Any, **kwargs: Any) -> Any:
        found = options(*args, **kwargs)
        if _build.objects is not None and cpp_builder._is_gcc(cpp_builder.get_cpp_compiler()):
            found[_CFLAGS].append("fno-gnu-unique")
        return found

    return with_flag


def _without_destructor(compile_source: Any) -> Any:
    @wraps(compile_source)
    def without_destructor(graph: Any, source: str, *args: Any, **kwargs: Any) -> Any:
        if _build.objects is not None:
            source = source.replace(_LAST_ERROR, _LAST_ERROR_WITHOUT_DESTRUCTOR)
        return compile_source(graph, source, *args, **kwargs)

    return without_destructor


def _side_by_side(build: Any) -> Any:
    """Let objects be compiled in threads; linking waits for them."""
    threads = ThreadPoolExecutor(thread_name_prefix="precast-cpp")

    @wraps(build)
    def side_by_side(builder: Any) -> None:
        objects = _build.objects
        if objects is not None and builder._sources_args.strip().endswith(_OBJECTS):
            objects.append(threads.submit(build, builder))
            return
        while objects and builder._do_link:
            objects.pop(0).result()
        build(builder)

    return side_by_side


def fast_settings() -> dict[str, Any]:
    """Return settings of Inductor that save time in the C++ compiler and change nothing that runs."""
    wanted = {
        # Debug information of lines, and a register kept for profilers.
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.enable_frame_pointer": False,
    }
    known = config.get_config_copy()
    return {name: value for name, value in wanted.items() if name in known}
