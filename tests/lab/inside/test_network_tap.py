"""The tap network on the kernel that Debian ships, with its modules: what guests can say and hear, and a kill."""

from tests.plugins.test_network_tap_guests import (  # noqa: F401  # the tests themselves, with their fixtures
    host,
    name,
    test_create_killed_between_any_two_steps_is_taken_away_or_finished,
    test_guest_does_not_take_its_neighbours_place_on_the_bridge,
    test_guest_is_heard_as_itself_and_as_nobody_else,
    test_guest_reaches_no_address_of_its_tap,
    test_guest_reaches_no_service_of_the_host_past_the_bridge,
    test_guest_reaches_other_networks_only_with_nat_and_under_the_hosts_address,
    test_guests_hear_each_other_only_when_they_are_not_isolated,
    test_isolated_guest_neither_reaches_nor_is_reached,
    test_packets_with_anothers_address_are_dropped,
)
