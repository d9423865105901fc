"""What a GPU shows of loramux: `lease.py` runs what is in `stages/`, `session/` keeps what they find.

Stages with more work than a page holds have a room of their own: `compiling/`, `peers/`, `sweeping/`. `carry.py`
gathers what a borrowed machine lacks, `oldest/` tries all of it with the versions of one.
"""
