"""What runs in a browser and what serves it, for tools.draw, tools.export and tools.study."""
