"""What this distribution adds to fxprune; its entry points stand in pyproject.toml."""
