"""The table of generation parameters in ``artifacts/SPEC.md``.

``python -m precast.tools.parameter_table`` updates it.
"""

from __future__ import annotations

from pathlib import Path

from precast.graphs.generation_parameters import PARAMS, Param

BEGIN, END = "<!-- generation parameters: generated -->", "<!-- end of generated -->"
_SPEC = Path(__file__).parents[1] / "artifacts" / "SPEC.md"
_TYPES = {
    "integer": "integer",
    "number": "finite number",
    "flag": "boolean",
    "early_stopping": "boolean or `never`",
    "token": "token id",
    "tokens": "list of token ids",
    "sequences": "list of lists of token ids",
    "biases": "list of pairs of token ids and number",
}


def parameter_table() -> str:
    """Return the table in Markdown, a line for each parameter that ``defaults`` may hold."""
    rows = [_row(param) for param in PARAMS if param.in_checkpoint]
    head = "| key | type | state buffer | meaning |\n|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_parameter_table(spec: str) -> str:
    """Return the text of SPEC.md with an up-to-date table between its markers."""
    before, _, rest = spec.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{parameter_table()}\n{END}{after}"


def main() -> None:
    """Rewrite SPEC.md."""
    _SPEC.write_text(with_parameter_table(_SPEC.read_text("utf-8")), "utf-8")


def _row(param: Param) -> tuple[str, ...]:
    width = "".join(f" [{size}]" for size in param.shape)
    buffer = (
        "" if param.dtype is None else f"{param.dtype}{width}" + (f", `{param.graph}`" if param.graph else "")
    )
    return f"`{param.name}`", _TYPES[param.kind], buffer, param.help


if __name__ == "__main__":
    main()
