"""Exit with a sentence if this Python is too old for the project. Runs on any Python."""

import sys

if sys.version_info < (3, 11):
    found = "%s is Python %d.%d" % (sys.executable, sys.version_info[0], sys.version_info[1])
    goal = " ".join(sys.argv[1:]) or "install"
    sys.exit("opentalking-core needs Python 3.11 or later, and " + found + ": try `make %s PYTHON=python3.12`." % goal)
