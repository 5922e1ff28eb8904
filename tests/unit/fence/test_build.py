"""From settings to providers, and what people are told of them."""

import pytest

from mdcluster.config.errors import ConfigError
from mdcluster.config.settings import Settings, parse_settings
from mdcluster.fence.build import check_names, described, providers, settle_ms

AGENT = """
[timing]
watchdog_ms = 10000
[fence]
watchdog = "/dev/watchdog"
[fence.agent]
command = "/usr/sbin/fence_x"
[fence.agent.nodes]
alpha = {}
beta = {}
"""


def test_providers_come_in_the_order_of_the_settings() -> None:
    assert [p.name for p in providers(Settings())] == ["process"]
    assert [p.name for p in providers(parse_settings(AGENT))] == ["process", "agent", "watchdog"]


def test_what_was_sent_before_is_waited_for_as_long_as_after_any_end() -> None:
    settings = parse_settings(AGENT)
    assert settle_ms(settings) == settings.timing.landed_ms > settings.timing.device_timeout_ms
    at_once = parse_settings(
        AGENT.replace("[fence.agent.nodes]", "settle_ms = 0\n[fence.agent.nodes]")
    )
    assert settle_ms(at_once) == 0


def test_names_are_those_of_clusterips() -> None:
    settings = parse_settings(AGENT)
    check_names(settings, ["alpha", "beta", "gamma"])
    check_names(Settings(), [])
    with pytest.raises(ConfigError, match=r"nodes\.beta\]: .* did you mean 'bet'\?"):
        check_names(settings, ["alpha", "bet"])


def test_people_are_told_how_a_silent_node_is_fenced() -> None:
    text = "\n".join(described(parse_settings(AGENT)))
    assert "agent: /usr/sbin/fence_x has switched it off and reports it as off" in text
    assert "for alpha, beta" in text
    assert "watchdog: its watchdog has reset it: 61246 ms of silence" in text
    assert text.index("process:") < text.index("agent:") < text.index("watchdog:")
    assert text.endswith("manual: an administrator says so, mdcadm --fence-ack NODE.")
