"""The PyTorch backend: lowering table, wrapper and probe."""

__all__: list[str] = []
