"""To be imported before all else by a process that is to stay small, and by no other.

structlog loads rich for the colours of tracebacks wherever it can: 4 MB in each process (measured), and machines read
what servers log. In a developer's terminal they are plain, too. The command line, which draws with rich, does not pass
here.
"""

import sys

# How Python says that there is none.
sys.modules["rich"] = None  # type: ignore[assignment]
