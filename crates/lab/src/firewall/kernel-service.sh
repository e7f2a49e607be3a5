#!/bin/sh
# service iptables save|restart, as distributions have it
case "$1 $2" in
  "iptables save") iptables-save >/run/lab/rules.v4 && ip6tables-save >/run/lab/rules.v6 ;;
  "iptables restart")
    # Beginning with what a machine has when it starts.
    for family in iptables ip6tables; do
      for chain in INPUT FORWARD OUTPUT; do $family -P $chain ACCEPT; done
      $family -F && $family -X || exit 1
    done
    iptables-restore /run/lab/rules.v4 && ip6tables-restore /run/lab/rules.v6 ;;
  *) echo "service: $* is not known in this lab" >&2; exit 1 ;;
esac
