"""Between control requests and the core: arguments to changes, what is known to answers."""

from mdcluster.requests.build import Wish
from mdcluster.requests.errors import RequestError
from mdcluster.requests.requests import DeviceLook, Requests

__all__ = ["DeviceLook", "RequestError", "Requests", "Wish"]
