"""Names that PySyft's tutorials import from ``syft.federated``."""
