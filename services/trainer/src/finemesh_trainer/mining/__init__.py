"""Hard negatives, mined through the mesh that will serve the model.

recipe     what is mined, and how it is mixed
select     one query: its rankings → what is left of them → what is drawn
randoms    the random part of the mix, out of the other queries' positives
vote       a trained cross-encoder as a second opinion
output     the folder: progress while it runs, examples and manifest at the end
command    `finemesh-trainer mine`
"""

from finemesh_trainer.mining.command import add_parser, run

__all__ = ["add_parser", "run"]
