"""Tokenizers, chat templates and the JSON files of a checkpoint, read within bounds."""
