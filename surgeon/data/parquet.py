"""Records of a .parquet file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError


def parquet_records(path: Path, fields: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of every row. Of the columns those of `fields` are read; the others are in a record as None, so
    that a value of theirs that Python has no type for is in nobody's way."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise SurgeonError(
            "reading .parquet needs pyarrow, which is not installed", str(path), "pip install 'surgeon[parquet]'"
        ) from error
    try:
        row = 0
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = [name for name in names if name in fields]
            twice = next((name for name in wanted if wanted.count(name) > 1), None)
            if twice is not None:
                raise SurgeonError(f"the file has two columns {twice!r}", str(path), "leave one out")
            unread = dict.fromkeys(names)
            for batch in file.iter_batches(1024, columns=wanted):
                for record in batch.to_pylist() if wanted else [{}] * batch.num_rows:
                    row += 1
                    yield f"{path}: row {row}", unread | record
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise SurgeonError(f"the parquet file cannot be read: {error}", str(path), "write it again") from error
