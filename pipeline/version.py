"""Which version this is."""

DISTRIBUTION = "orders-pipeline"


def version() -> str:
    """The installed distribution's version; `unknown` where it runs from a folder that nobody installed."""
    # Imported here because it costs 20 ms and `--help` needs no version.
    from importlib import metadata  # noqa: PLC0415

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
