#!/bin/sh
# The way back for services with `transparent = true`.
#
# levee connects to their backends from the clients' own addresses. What backends answer is then
# addressed to clients, and this machine would forward it or drop it. Here, packets that belong to
# such a connection are marked, and what is marked is delivered locally.
#
# This is half of what is needed: backends must also send their answers to this machine, by a route
# to the clients (usually the default route) through it.
#
#   levee-tproxy.sh up     set it up, again if need be
#   levee-tproxy.sh down   take it away
#   levee-tproxy.sh show   show what is there
#
# Bits of the packet mark, and the routing table, that nobody else uses here:
MARK=${LEVEE_TPROXY_MARK:-0x1}
TABLE=${LEVEE_TPROXY_TABLE:-100}

set -eu

up() {
    down
    for family in -4 -6; do
        ip "$family" rule add fwmark "$MARK/$MARK" lookup "$TABLE"
        ip "$family" route replace local default dev lo table "$TABLE"
    done
    # Before the routing decision. The kernel looks for the packet's own socket, and the rule
    # matches when that one may have foreign addresses.
    nft -f - <<RULES
table inet levee_tproxy {
    chain prerouting {
        type filter hook prerouting priority mangle; policy accept;
        meta l4proto tcp socket transparent 1 meta mark set meta mark or $MARK
    }
}
RULES
}

down() {
    for family in -4 -6; do
        # One at a time: a rule may be there twice.
        while ip "$family" rule del fwmark "$MARK/$MARK" lookup "$TABLE" 2>/dev/null; do :; done
        ip "$family" route del local default dev lo table "$TABLE" 2>/dev/null || :
    done
    nft delete table inet levee_tproxy 2>/dev/null || :
}

show() {
    for family in -4 -6; do
        ip "$family" rule show fwmark "$MARK/$MARK"
        ip "$family" route show table "$TABLE" 2>/dev/null || :
    done
    nft list table inet levee_tproxy 2>/dev/null || echo "no nftables table levee_tproxy"
}

case "${1-}" in
    up | down | show) "$1" ;;
    *)
        echo "usage: $0 up|down|show" >&2
        exit 2
        ;;
esac
