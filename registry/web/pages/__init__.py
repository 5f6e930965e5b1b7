"""One page a module: `router` is found by its presence, so a new file is a new page."""
