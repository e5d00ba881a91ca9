"""A graph compiled for one kind of processor: decided by its key, built once, written whole.

`deepseek-engine build` is what the module model_engine calls. Nothing here imports TensorRT
until an engine has to be built, so that finding nothing to do takes no time.
"""
