"""Training data: pairs, triplets, mined lists, BEIR folders and click logs become `Example`s; guards refuse or clean."""
