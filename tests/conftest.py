"""What holds for all tiers: no test fails because the machine is busy."""

from hypothesis import settings

settings.register_profile("mdcluster", deadline=None)
settings.load_profile("mdcluster")
