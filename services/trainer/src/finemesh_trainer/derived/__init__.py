"""What is made of a finished run: its weights part of the way back to the base, or folded into a base of their own."""

from finemesh_trainer.derived.command import add_parser

__all__ = ["add_parser"]
