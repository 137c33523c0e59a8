"""Opens what a caller gives as a side, in this process or in a worker.

`given` tells models, factories and described networks apart; `isolation` sends to a worker what
the options say; `trial` what may take this process down.
"""
