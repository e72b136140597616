"""How hard the properties are tried: a few seconds each, or FRAUDSTREAM_SLOW=1."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick",
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("slow", settings.get_profile("quick"), max_examples=3_000)
settings.load_profile("slow" if os.environ.get("FRAUDSTREAM_SLOW") == "1" else "quick")
