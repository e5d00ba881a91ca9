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
    """A release, an artefact or a signature does not verify."""


class SigningError(ServingError):
    """The token, the key or the PIN file cannot be used to sign."""


class EngineError(ServingError):
    """The graph or the plan cannot be run as the settings ask, or not on this host."""
