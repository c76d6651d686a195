#!/bin/sh
# Brings this guest's network card up from /etc/banger/network.conf. May run any number of times.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

config=${1:-/etc/banger/network.conf}
tries=${NETWORK_TRIES:-600} # a tenth of a second each; an emulated machine is slow to find its devices

GUEST_ADDRESS='' GATEWAY=''
. "$config" || exit 1
if [ -z "$GUEST_ADDRESS" ]; then
    echo "network-up: no GUEST_ADDRESS in $config" >&2
    exit 1
fi

# The first card that has a device behind it; sit0, tunl0, dummy0 and the like have none.
find_card() {
    for path in /sys/class/net/*; do
        if [ -e "$path/device" ]; then
            echo "${path##*/}"
            return 0
        fi
    done
    return 1
}

# The first that at least looks like Ethernet (ARPHRD_ETHER is 1).
find_any() {
    for path in /sys/class/net/*; do
        if [ "$(cat "$path/type" 2>/dev/null)" = 1 ]; then
            echo "${path##*/}"
            return 0
        fi
    done
    return 1
}

# A prefix length as a netmask, for ifconfig: 24 is 255.255.255.0.
netmask() {
    left=$1 mask=''
    for _ in 1 2 3 4; do
        bits=$((left > 8 ? 8 : left))
        left=$((left - bits))
        mask=$mask${mask:+.}$((256 - (1 << (8 - bits))))
    done
    echo "$mask"
}

with_ip() { # PROGRAM CARD
    $1 link set dev lo up
    $1 link set dev "$2" up || return 1
    $1 addr show dev "$2" | grep -q -F " $GUEST_ADDRESS " || $1 addr add "$GUEST_ADDRESS" dev "$2" || return 1
    [ -n "$GATEWAY" ] || return 0
    # A gateway outside the card's own subnet is reached all the same: onlink.
    $1 route replace default via "$GATEWAY" dev "$2" 2>/dev/null ||
        $1 route replace default via "$GATEWAY" dev "$2" onlink
}

with_ifconfig() { # CARD
    ifconfig lo 127.0.0.1 up
    ifconfig "$1" "${GUEST_ADDRESS%/*}" netmask "$(netmask "${GUEST_ADDRESS#*/}")" up || return 1
    [ -n "$GATEWAY" ] || return 0
    route del default 2>/dev/null
    route add default gw "$GATEWAY" dev "$1"
}

bring_up() { # CARD
    if command -v ip >/dev/null; then
        with_ip ip "$1"
    elif command -v busybox >/dev/null && busybox ip link >/dev/null 2>&1; then
        with_ip "busybox ip" "$1"
    else
        with_ifconfig "$1"
    fi
}

# A card may come late, and udev may rename it between finding and using it: look again then.
while :; do
    card=$(find_card) || { [ "$tries" -le 0 ] && card=$(find_any); } || card=''
    if [ -n "$card" ] && bring_up "$card"; then
        exit 0
    fi
    if [ "$tries" -le 0 ]; then
        echo "network-up: ${card:-no network card} could not be brought up" >&2
        exit 1
    fi
    tries=$((tries - 1))
    sleep 0.1 2>/dev/null || sleep 1
done
