"""Compiling libraries that ``dlclose`` can unload.

glibc keeps a library in memory for the life of the process if it has an STB_GNU_UNIQUE symbol, and for the
life of each thread for which it has registered a destructor. Inductor's output has both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch._inductor import codecache, cpp_builder

_CFLAGS = 2
"""Index of the compiler flags in the tuple that ``get_cpp_options`` returns."""
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


@contextmanager
def unloadable() -> Iterator[None]:
    """Compile graphs without unique symbols and without destructors of threads."""
    options, compile_source = cpp_builder.get_cpp_options, codecache.AotCodeCompiler.compile

    def with_flag(*args: Any, **kwargs: Any) -> Any:
        found = options(*args, **kwargs)
        if cpp_builder._is_gcc(cpp_builder.get_cpp_compiler()):
            found[_CFLAGS].append("fno-gnu-unique")
        return found

    def without_destructor(graph: Any, source: str, *args: Any, **kwargs: Any) -> Any:
        source = source.replace(_LAST_ERROR, _LAST_ERROR_WITHOUT_DESTRUCTOR)
        return compile_source(graph, source, *args, **kwargs)

    with (
        patch.object(cpp_builder, "get_cpp_options", with_flag),
        patch.object(codecache.AotCodeCompiler, "compile", without_destructor),
    ):
        yield
