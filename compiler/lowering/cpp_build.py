"""How Inductor's C++ is compiled: in parallel, and to libraries that ``dlclose`` can unload.

By default Inductor compiles the objects of a graph one after the other, and its libraries are never unloaded:
glibc keeps a library for the life of the process if it has an STB_GNU_UNIQUE symbol, and for the life of each
thread for which it has registered a destructor.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

from torch._inductor import codecache, config, cpp_builder
from torch._inductor.cpu_vec_isa import pick_vec_isa

from precast.compiler.cache_folder import cache_folder

_WITH_HEADERS = {"aot_inductor.precompile_headers": True, "cpp_cache_precompile_headers": True}
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
    """Objects of the graph that this thread is compiling; None outside of ``cpp_build``."""

    objects: list[Future[None]] | None = None


_build = _Build()


@contextmanager
def cpp_build() -> Iterator[None]:
    """Apply this module to the graphs that this thread compiles."""
    _install()
    _build.objects = []
    try:
        yield
    finally:
        objects, _build.objects = _build.objects, None
        for compiled in objects:
            compiled.exception()  # waits; linking has raised the error


def precompile_headers() -> None:
    """Precompile the headers that all graphs for a CPU include, unless the cache has them.

    That takes as long as it saves for about three graphs.
    """
    if shutil.which("openssl") is None:  # Inductor hashes headers with it
        return
    with config.patch(fast_settings()):
        isa = pick_vec_isa()
    with ThreadPoolExecutor() as threads:
        for precompiled in [threads.submit(_precompile, wrapper, isa) for wrapper in (True, False)]:
            precompiled.result()


def _precompile(wrapper: bool, isa: Any) -> None:
    options: dict[str, Any] = {"aot_mode": True, "device_type": "cpu", "vec_isa": isa}
    options |= dict.fromkeys(("use_mmap_weights", "use_mmap_weights_external", "use_relative_path"), False)
    find: Any = codecache._get_cpp_wrapper_header if wrapper else codecache._get_cpp_prefix_header
    header = find("cpu", aot_mode=True) if wrapper else find("cpu")
    with cpp_build(), config.patch(fast_settings() | _WITH_HEADERS):
        build = cpp_builder.CppTorchDeviceOptions(**options)
        command = cpp_builder.CppBuilder(name="o", sources="i", BuildOption=build).get_command_line()
        codecache._precompile_header(header, repr(command), min_optimize=wrapper, **options)


def _has_headers() -> bool:
    return any((cache_folder() / "headers").glob("*.gch"))


@cache
def _install() -> None:
    """Wrap Inductor's functions once; outside of ``cpp_build`` they are unchanged."""
    headers = cache_folder() / "headers"
    codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(headers), str(headers / "locks")
    cpp_builder.get_cpp_options = _with_flag(cpp_builder.get_cpp_options)
    compiler: Any = codecache.AotCodeCompiler
    compiler.compile = _without_destructor(compiler.compile)
    builder: Any = cpp_builder.CppBuilder
    builder.build = _in_threads(builder.build)


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
        **dict.fromkeys(_WITH_HEADERS, _has_headers()),
        # Debug information, and a register that is kept for profilers.
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.enable_frame_pointer": False,
        # Otherwise a test library is built for each instruction set that the processor has.
        "cpp.vec_isa_ok": True,
    }
    known = config.get_config_copy()
    return {name: value for name, value in wanted.items() if name in known}
