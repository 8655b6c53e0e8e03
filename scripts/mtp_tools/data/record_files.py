"""The records of a file, one after another, whatever its format; memory does not grow with the file.

A record that cannot be read is given as what is wrong with it; a file that cannot is an end with one line.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import ijson
import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from mtp_tools.data.conversation import LeftOut, Refused, one_line
from mtp_tools.data.model_directory import LFS_POINTER

Record = dict[str, object]
Place = str  # FILE:LINE or FILE: row N

ROWS = 128  # of a columnar file in memory at once
ROWS_WITH_IMAGES = 4
BUFFER = 1 << 16  # bytes read at once of each of its columns
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
UTF16 = (b"\xff\xfe", b"\xfe\xff")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Choose = Callable[[Collection[str]], list[str]]  # of a columnar file's columns, those that are needed


def format_of(path: Path) -> str | None:
    """The ending that says what a file holds; None where it is none of ours."""
    suffix = (path.with_suffix("") if path.suffix in COMPRESSIONS else path).suffix.lower()
    is_compressed_table = path.suffix in COMPRESSIONS and suffix in (".parquet", ".arrow")
    return suffix if suffix in READERS and not is_compressed_table else None


def read(path: Path, choose: Choose) -> Iterator[tuple[Place, Record] | LeftOut]:
    """`choose`: see Choose. Raises SystemExit where the file as a whole cannot be read."""
    try:
        yield from READERS[format_of(path)](path, choose)
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.filename is None and error.strerror is None:
            raise SystemExit(f"{path}: is damaged or cut off: {one_line(error)}") from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise SystemExit(f"{path}: cannot be read: {reason}") from None


# ---------------------------------------------------------------- text


def opened(path: Path) -> io.BufferedReader:
    """Its bytes, decompressed, from behind a byte-order mark."""
    compression = COMPRESSIONS.get(path.suffix)
    raw = pyarrow.input_stream(str(path), compression=compression) if compression else path.open("rb", buffering=0)
    file = io.BufferedReader(raw, BUFFER)
    head = file.peek(len(LFS_POINTER))
    if head.startswith(LFS_POINTER):
        file.close()
        raise SystemExit(f"{path}: is a Git LFS pointer and not the data; run `git lfs pull` in its repository")
    if head.startswith(UTF16):
        file.close()
        raise SystemExit(f"{path}:1: is not UTF-8 but UTF-16; convert it (iconv -f utf-16 -t utf-8)")
    if head.startswith(BYTE_ORDER_MARK):
        file.read(len(BYTE_ORDER_MARK))
    return file


def read_lines(path: Path, _: Choose) -> Iterator[tuple[Place, Record] | LeftOut]:
    """JSON lines; also of an array, as files called .json may hold either."""
    with opened(path) as file:
        if file.peek(1).lstrip()[:1] == b"[":
            yield from read_array(path, file)
            return
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            if line.strip():
                try:
                    yield where, record_of(line)
                except Refused as refused:
                    yield LeftOut.of(where, refused)


def record_of(line: bytes) -> Record:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise Refused("is not UTF-8; convert it (iconv -f latin1 -t utf-8)") from None
    except RecursionError:
        raise Refused("nested too deep") from None
    except ValueError as error:  # a number of too many digits is one that JSON permits
        raise Refused("not JSON", str(error)) from None
    if not isinstance(record, dict):
        raise Refused("is no JSON object")
    return record


def read_array(path: Path, file: io.BufferedReader) -> Iterator[tuple[Place, Record] | LeftOut]:
    numbers = itertools.count()
    try:
        for record in ijson.items(file, "item", use_float=True):
            where = f"{path}: item {next(numbers)}"
            yield (where, record) if isinstance(record, dict) else LeftOut(where, "is no JSON object")
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: item {next(numbers)}: not JSON: {one_line(error)}; the rest cannot be read") from None


def read_table(path: Path, _: Choose) -> Iterator[tuple[Place, Record] | LeftOut]:
    """CSV and, with tabs, TSV. The first row names the columns."""
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if format_of(path) == ".tsv" else ","
    with io.TextIOWrapper(opened(path), encoding="utf-8", errors="surrogateescape", newline="") as text:
        rows = csv.DictReader(text, delimiter=delimiter)
        try:
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if None in row or None in row.values():
                    yield LeftOut(where, "has other columns than the first row")
                elif not all(map(is_utf8, row.values())):
                    yield LeftOut(where, "is not UTF-8; convert it (iconv -f latin1 -t utf-8)")
                else:
                    yield where, {name: value for name, value in row.items() if value}
        except csv.Error as error:
            raise SystemExit(f"{path}:{rows.line_num}: is no table: {error}") from None


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- columns


def read_parquet(path: Path, choose: Choose) -> Iterator[tuple[Place, Record]]:
    # Column chunks are streamed too: by default whole row groups are read ahead.
    file = pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    columns = choose(file.schema_arrow.names)
    rows = rows_at_once(file.schema_arrow, columns)
    yield from rows_of(path, file.iter_batches(batch_size=rows, columns=columns, use_threads=False))


def read_arrow(path: Path, choose: Choose) -> Iterator[tuple[Place, Record]]:
    """As data sets saved to disk have them: streams of batches; and the file format."""
    with pyarrow.memory_map(str(path)) as memory:
        try:
            reader = pyarrow.ipc.open_stream(memory)
            batches: Iterator[pyarrow.RecordBatch] = iter(reader)
        except pyarrow.ArrowInvalid:
            reader = pyarrow.ipc.open_file(memory)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        columns = choose(reader.schema.names)
        rows = rows_at_once(reader.schema, columns)
        pieces = (b.select(columns).slice(i, rows) for b in batches for i in range(0, len(b), rows))
        yield from rows_of(path, pieces)


def rows_at_once(schema: pyarrow.Schema, columns: list[str]) -> int:
    return ROWS_WITH_IMAGES if any(holds_bytes(schema.field(name).type) for name in columns) else ROWS


def holds_bytes(kind: pyarrow.DataType) -> bool:
    inner = (kind.field(i).type for i in range(kind.num_fields))
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) or any(map(holds_bytes, inner))


def rows_of(path: Path, batches: Iterator[pyarrow.RecordBatch]) -> Iterator[tuple[Place, Record]]:
    """Every row has every field that any row has: those that are null are none of this row's."""
    numbers = itertools.count()
    for batch in batches:
        yield from ((f"{path}: row {next(numbers)}", without_nulls(row)) for row in batch.to_pylist())


def without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


READERS = {
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".json": read_lines,
    ".csv": read_table,
    ".tsv": read_table,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
KNOWN = f"{', '.join(READERS)} (the text formats also with {', '.join(COMPRESSIONS)})"
