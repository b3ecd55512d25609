"""Presets: NAME.toml for each entry point; its first line says what the preset does."""
