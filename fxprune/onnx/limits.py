"""What an ONNX file can hold, and how far it may be from what it was made of."""

LIMIT = 2**31 - 1
"""Bytes: protobuf refuses larger messages, and so does an ONNX file with its weights inside."""

RTOL = 1e-4
"""Relative: max|a-b|/max|a| of an output, where nothing else is asked."""
