"""Training data: pairs, triplets, mined lists, BEIR folders and click logs become `Example`s; guards clean them."""
