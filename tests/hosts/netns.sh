#!/bin/sh
# Two hosts on one machine: network namespaces NAME0 (10.77.N.1) and NAME1 (10.77.N.2), joined by one cable.
# usage: netns.sh up|down NAME N
case $1 in
up)
    ip netns add "$2"0 && ip netns add "$2"1 && ip link add "$2"a netns "$2"0 type veth peer name "$2"b netns "$2"1 &&
    ip -n "$2"0 addr add "10.77.$3.1/24" dev "$2"a && ip -n "$2"1 addr add "10.77.$3.2/24" dev "$2"b &&
    for side in 0a 1b; do
        ip -n "$2${side%?}" link set lo up && ip -n "$2${side%?}" link set "$2${side#?}" up || exit
    done ;;
down)
    ip netns del "$2"0; ip netns del "$2"1 ;;
esac
