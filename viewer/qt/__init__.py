"""The window: all that knows Qt and pyqtgraph. It paints what `viewer.display` holds and passes keys on."""
