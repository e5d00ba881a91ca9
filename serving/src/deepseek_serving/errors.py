"""Errors that a person can act on: their text says what is wrong, where, and what to do."""

from __future__ import annotations

# sysexits.h: what is wrong is in the configuration or the model, so that a restart will not help
EX_CONFIG = 78


class ServingError(Exception):
    """Base of the errors that end a command with one clear line instead of a traceback."""


class CheckpointError(ServingError):
    """The checkpoint cannot be exported as it is."""


class PrepareError(ServingError):
    """The graph cannot be prepared in the precision asked for."""


class GateError(PrepareError):
    """The prepared graph is too far from the FP32 graph."""


class BuildError(ServingError):
    """The graph cannot become the engine asked for."""


class TokenizerError(ServingError):
    """The tokenizer's files or the chat template cannot be used."""


class SettingsError(ServingError):
    """The settings file is missing or wrong."""


class VerificationError(ServingError):
    """A release, an artifact or a signature does not verify."""


class SigningError(ServingError):
    """The token, the key or the PIN file cannot be used to sign."""


class EngineError(ServingError):
    """The graph or the plan cannot be run as the settings ask, or not on this host."""


class LibraryError(Exception):
    """Code of somebody else ended in a way that it does not document."""


def library_error(library: str, error: BaseException) -> Exception:
    """What a library raised, as an exception that ends a request and no thread.

    A panic of a library in Rust derives from BaseException (pyo3_runtime.PanicException), so that
    `except Exception` lets it pass. What asks a thread or the process to end stays as it is.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        raise error
    if isinstance(error, Exception):
        return error
    return LibraryError(f"{library} failed: {type(error).__name__}")
