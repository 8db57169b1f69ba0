"""Faces of nobody: means over many people, drawn on a computer model of a head."""
