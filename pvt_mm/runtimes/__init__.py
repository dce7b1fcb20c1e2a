"""Exported files in the place of a network: ONNX Runtime's and OpenVINO's."""

from pvt_mm.lazy import lazily

__all__ = [
    "ExportedModel",
    "Session",
    "is_exported",
    "open_session",
    "refuse_for_exported",
    "use_exported",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "ExportedModel": ".model",
        "Session": ".sessions",
        "is_exported": ".sessions",
        "open_session": ".sessions",
        "refuse_for_exported": ".using",
        "use_exported": ".using",
    },
)
