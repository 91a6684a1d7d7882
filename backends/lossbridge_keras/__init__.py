"""The Keras backend: lowering table, wrapper and probe."""

__all__: list[str] = []
