"""A plugin that cannot be imported."""

raise SystemExit("a plugin that ends the process")
