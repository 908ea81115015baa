"""The records that a written chunk becomes."""

from __future__ import annotations

from streamstores.limits import Limits, check_chunks

__all__ = ["records_from_chunk"]


def records_from_chunk(chunk: bytes, limits: Limits, *, split: bool) -> list[bytes]:
    """The chunk as records that one append can hold; none if it is empty.

    A chunk that is too long becomes several records with `split`, and raises `LimitExceeded`
    without. Raises `InvalidRequest` if it is not bytes.
    """
    if isinstance(chunk, (bytearray, memoryview)):
        chunk = bytes(chunk)  # a copy: the caller may use the buffer again
    is_bytes = isinstance(chunk, bytes)
    if is_bytes and not chunk:
        return []
    if not is_bytes or not split:
        return list(check_chunks((chunk,), limits))
    size = min(limits.record_bytes, limits.append_bytes)
    return [chunk[start : start + size] for start in range(0, len(chunk), size)]
