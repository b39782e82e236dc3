"""Who becomes a default: pipelines with a model against the pipeline without it, on all judged sets.

plan      what is measured: the judged sets, the baseline, the candidates with their weights fixed beforehand
measure   `finemesh eval`, one pipeline on one set
compare   paired bootstrap intervals, and the rule
report    the table with every cell
command   `finemesh-trainer evaluate`
"""

from finemesh_trainer.evaluation.command import add_parser, run

__all__ = ["add_parser", "run"]
