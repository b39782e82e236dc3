"""The parity gate on a judged set: what the mesh serves ranks as the training framework's f32 does.

passages       documents cut as the indexer cuts them
expected       the rankings that PyTorch gives
gate           how far they are apart, and what is let through
command        `finemesh-trainer parity encoder | cross-encoder`
"""

from finemesh_trainer.parity.command import add_parser

__all__ = ["add_parser"]
