"""`python -m orchestrator.report SWEEP_FOLDER`: make report.html and report.md again from results.json."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from orchestrator.errors import MissingDataError, UserError
from orchestrator.record.records import Results


def load_results(place: Path) -> Results:
    """The results in a sweep's folder, or in a results.json itself. Raises MissingDataError that says what is wrong."""
    path = place / "results.json" if place.is_dir() else place
    again = "Run the sweep again to make it: what is finished is not run twice."
    if not path.is_file():
        raise MissingDataError(
            f"{path}: there is no such file; give the folder of a sweep (outputs/sweeps/NAME). {again}"
        )
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingDataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValidationError, UnicodeDecodeError, json.JSONDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        where = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}" if first else str(error)
        raise MissingDataError(f"{path}: is not a sweep's results.json ({where}). {again}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, load, write, print where the report lies. Returns the exit code: 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a sweep (outputs/sweeps/NAME), or its results.json")
    parser.add_argument("--output", type=Path, help="folder to write to; the sweep's own by default")
    chosen = parser.parse_args(arguments)
    from orchestrator.show.page import write_report

    try:
        results = load_results(chosen.folder)
        own = chosen.folder if chosen.folder.is_dir() else chosen.folder.parent
        print(write_report(results, chosen.output or own))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: cannot be written ({error.strerror}). Give another --output.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
