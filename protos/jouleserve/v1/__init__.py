"""Version 1 of the wire: sources and generated code."""
