"""The page of ``fedpriv explore``: a marimo app over `fedpriv.lab.explore`, served to this machine alone."""
