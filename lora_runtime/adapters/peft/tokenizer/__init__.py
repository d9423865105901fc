"""An adapter's tokenizer: its files read in a worker, its tokens put beside the base's pipeline.

May import: adapters.peft, errors, foreign.
"""
