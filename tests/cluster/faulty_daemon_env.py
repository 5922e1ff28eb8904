"""The name that the watched daemon and those who start it share."""

ENVIRONMENT = "MDCLUSTER_FAULTS"
