"""How each piece of work is done, in plain Python.

No Luigi class stands here, on purpose: what can be asked of Luigi is in `pipelines`, so that the rule "only `pipelines`
imports luigi" is one line that a linter checks, and every function below can be used and tested without a scheduler.
"""

__version__ = "0.1.0"
