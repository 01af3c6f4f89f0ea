"""The service on a bundle's folder instead of the model store, for tests that need the real server but no Bento."""

import os
from pathlib import Path

from prismrec.serving import service, web

service.bundle_folder = lambda: Path(os.environ["FAULTS_BUNDLE"])  # type: ignore[assignment]
web.BODY_SECONDS = float(os.environ["FAULTS_BODY_SECONDS"])
PrismrecService = service.PrismrecService
