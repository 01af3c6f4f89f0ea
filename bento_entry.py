"""Where a Bento starts: makes sure that it runs its own code, then hands out the service.

`bentoml serve prismrec:latest` first tries to import a module called `prismrec`. Where the package is
installed too, as in the project's own environment, that would be served instead of what is packed in the
Bento. Here it is forgotten again, before anything but its name was used.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent

if (HERE / "prismrec").is_dir():  # in a Bento; in the project the package lies under src/
    for name in [name for name in sys.modules if name.partition(".")[0] == "prismrec"]:
        del sys.modules[name]
    sys.path.insert(0, str(HERE))

from prismrec.serving.service import PrismrecService  # noqa: E402 - the import path comes first

__all__ = ["PrismrecService"]
