"""
Imported by multiprocessing's fork server alone: what it has loaded, each forked consumer has.

Starting a consumer takes 4 s of imports and kernels, which a suite cannot pay for each kill.
"""

import os
from pathlib import Path

from consumer import cli  # noqa: F401 - importing it is the purpose
from consumer.adapters.model_bundle import load_bundle
from consumer.app import rehearse

rehearse(load_bundle(Path(os.environ["FRAUDSTREAM_TEST_BUNDLE"]), allow_pickle=False))
