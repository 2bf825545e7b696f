"""The command line: `mmmask VERB ...`. The one place that knows the library, the data and the tasks.

Everything heavy is imported when a verb runs that needs it, so that `mmmask --help` answers at once.
"""

from mmmask.cli.front import VERBS, main, program

__all__ = ["VERBS", "main", "program"]
