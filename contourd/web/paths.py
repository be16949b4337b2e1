"""Numbers in the page's paths: those of jobs, series, models and planes, as the database counts them."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class NumberConvertor(Convertor[int]):
    """Matches what fits into 64 bits with a sign; what does not is no number of anything, and no path of the page."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        """Return the number."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Return it as it stands in a path."""
        return str(value)


def register_numbers() -> None:
    """Register the converter by which a route says ``{job:number}``."""
    register_url_convertor("number", NumberConvertor())
