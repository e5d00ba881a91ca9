"""Reading the files of a checkpoint or graph that third parties wrote and third parties parse.

Whatever is wrong with one, and whatever its parser does about that, becomes an error of ours that
names the file, the fault and the remedy.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from deepseek_serving.errors import ServingError, TokenizerError

# the largest published ones: 33 MiB for tokenizers, 9 MiB for an index of 90,000 tensors
LIMIT = 2**26
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
COPY_AGAIN = "copy it again from where the checkpoint was published"
LONGEST_REASON = 300
OWN = (ServingError, KeyboardInterrupt, SystemExit, GeneratorExit)


@contextmanager
def third_party(
    path: Path,
    error: type[ServingError],
    remedy: str = COPY_AGAIN,
    keep: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn whatever a third party's parser raises into `error`, which names the file.

    A panic in a parser that is written in Rust is no Exception. What is to `keep` is raised as it
    is.
    """
    try:
        yield
    except BaseException as fault:
        if isinstance(fault, (*OWN, *keep)):
            raise
        reason = (str(fault) or type(fault).__name__)[:LONGEST_REASON]
        raise error(f"{path}: cannot be read: {reason}; {remedy}") from fault


def read_bytes(path: Path, error: type[ServingError]) -> bytes:
    """All of a text file, once its size and its first bytes say that it is one. Raises `error`."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise error(f"{path}: not a regular file; {COPY_AGAIN}")
            if status.st_size > LIMIT:
                raise error(f"{path}: {status.st_size} bytes, too many to be one; {COPY_AGAIN}")
            data = file.read(status.st_size)
    except FileNotFoundError as fault:
        raise error(f"{path}: no such file; {COPY_AGAIN}") from fault
    except OSError as fault:
        raise error(f"{path}: cannot be read: {fault.strerror}") from fault
    if not data.strip():
        raise error(f"{path}: empty; {COPY_AGAIN}")
    if data.startswith(LFS_POINTER):
        raise error(
            f"{path}: a git-lfs pointer and not the file that it stands for; run 'git lfs pull' "
            "in the checkpoint's directory"
        )
    for mark, name in MARKS.items():
        if data.startswith(mark):
            raise error(
                f"{path}: begins with the byte order mark of {name}, which JSON must not have; "
                "save it as UTF-8 without one"
            )
    return data


def read_json(path: Path, error: type[ServingError]) -> Any:
    """The value in a file of JSON. Raises `error`."""
    data = read_bytes(path, error)
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8: {fault.reason}; {COPY_AGAIN}") from fault
    except RecursionError as fault:
        raise error(f"{path}: not JSON: nested too deeply; {COPY_AGAIN}") from fault
    except ValueError as fault:
        raise error(f"{path}: not JSON: {fault}; {COPY_AGAIN}") from fault


def read_object(path: Path, error: type[ServingError]) -> Mapping[str, Any]:
    """The same for a file that must hold an object."""
    value = read_json(path, error)
    if not isinstance(value, dict):
        raise error(f"{path}: not a JSON object; {COPY_AGAIN}")
    return value


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer in a directory's tokenizer.json. Raises TokenizerError.

    Some files ask for truncation or padding, as the model was trained with: prompts would silently
    lose what follows the 512th token. How long a text may be is the service's to decide.
    """
    path = directory / "tokenizer.json"
    data = read_bytes(path, TokenizerError)
    with third_party(path, TokenizerError):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
