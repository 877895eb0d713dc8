"""What of the package a plugin carries: its launcher."""
