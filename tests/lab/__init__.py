"""A machine with everything: device-mapper, KVM that boots guests, loops, taps, nftables. See CONTRIBUTING.md."""
