"""Heads: the best documents of a pipeline for judged queries, with the texts that a cross-encoder reads.

head      one head, and the files of them
fetch     from a running mesh
command   `finemesh-trainer heads`
measure   what is compared of two scorings of the same head
"""

from finemesh_trainer.heads.command import add_parser

__all__ = ["add_parser"]
