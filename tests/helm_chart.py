"""Helm itself, in a process of its own: the Go runtime that it brings takes signals that are Python's, as SIGPIPE."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def ask(chart: Path, what: str, values: dict[str, Any] | None = None) -> Any:
    """Return what Helm says: ``lint``, ``versions``, ``render``, ``defaults`` or, of values, ``refusal``."""
    command = [sys.executable, __file__, str(chart), what]
    request = json.dumps(values or {})
    ran = subprocess.run(command, input=request, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def answer(folder: Path, what: str, values: dict[str, Any]) -> Any:
    import helm_python

    if what == "lint":
        return helm_python.lint(folder, strict=True)
    with helm_python.Chart.load(folder) as chart:
        if what == "versions":
            return [chart.metadata["appVersion"], chart.version]
        if what == "render":
            return dict(chart.render(values, name="contourd", namespace="radiotherapy"))
        if what == "defaults":
            chart.validate_schema(chart.values)
            return sorted(chart.values.keys())
        try:
            chart.validate_schema(chart.merge_values(values))
        except helm_python.HelmValuesError as error:
            return str(error)
    return ""


if __name__ == "__main__":
    print(json.dumps(answer(Path(sys.argv[1]), sys.argv[2], json.load(sys.stdin)), default=str))
