"""What any training run needs. Imports nothing of the rest of the project."""

import os

# Libraries read these when they are imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for updates
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # a damaged file is reported in one line
if os.environ.get("RANK", "0") != "0":
    os.environ["TQDM_DISABLE"] = "1"  # of several processes, the first shows progress
