"""What a host starts: answers at once, installs the server if it is not there yet, and hands the connection over to it."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True  # nothing is written into a plugin's folder
if sys.version_info < (3, 9):  # noqa: UP036 - a host takes whatever Python it finds
    sys.exit("blip2tools: the plugin needs Python 3.9 or newer.")

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "lib"))

from blip2tools.launcher.plugin import main  # noqa: E402 - found by the line above

main(sys.argv[1:], HERE)
