"""Contributions on the wire: `encode` is local and free, `check` and `decode` are strict and equal on every node."""

from model.compression.dense_int8 import Contribution, check, decode, dequantize, encode, payload_bytes, probe

__all__ = ["Contribution", "check", "decode", "dequantize", "encode", "payload_bytes", "probe"]
