#!/bin/sh
# helpers.sh PROGRAM DIRECTORY [kernel] [without]: real clients and servers through a translating router that drops all
# but what was announced. A line for each exchange: ok NAME, SKIPPED: NAME, or FAILED: NAME. With kernel the router is
# the kernel's netfilter; without: no helper is in charge, so that all of them should fail. Needs root; touches only
# network namespaces of its own.
set -u
program=$1 dir=$2
shift 2
id=tgh$$
inside=$id-in router=$id-gw outside=$id-out
client=10.66.0.20 gateway=203.0.113.1 server=203.0.113.9
cleanup() {
  for ns in $inside $router $outside; do
    for pid in $(ip netns pids "$ns" 2>/dev/null); do kill "$pid" 2>/dev/null; done
    ip netns delete "$ns" 2>/dev/null
  done
}
trap cleanup EXIT
trap 'exit 1' INT TERM
set -e
for ns in $inside $router $outside; do
  ip netns add "$ns"
  ip -n "$ns" link set lo up
done
wire() { # DEVICE ADDRESS NAMESPACE ADDRESS
  ip -n "$router" link add "$1" type veth peer name eth0 netns "$3"
  ip -n "$router" address add "$2/24" broadcast + dev "$1"
  ip -n "$router" link set "$1" up
  ip -n "$3" address add "$4/24" broadcast + dev eth0
  ip -n "$3" link set eth0 up
}
wire lan0 10.66.0.1 "$inside" $client
wire wan0 $gateway "$outside" $server
ip -n "$inside" route add default via 10.66.0.1
ip netns exec "$router" sysctl -qw net.ipv4.ip_forward=1
cat >"$dir/rules.v4" <<RULES
*raw
-A PREROUTING -p udp --dport 5060 -j CT --helper sip
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
-A PREROUTING -p udp --dport 10080 -j CT --helper amanda
-A PREROUTING -p udp --dport 161 -j CT --helper snmp
-A PREROUTING -p udp --dport 162 -j CT --helper snmp_trap
-A PREROUTING -p tcp --dport 6667 -j CT --helper irc
-A PREROUTING -p tcp --dport 1723 -j CT --helper pptp
-A PREROUTING -p tcp --dport 6566 -j CT --helper sane
-A OUTPUT -p udp --dport 137 -j CT --helper netbios-ns
COMMIT
*nat
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
*filter
:INPUT DROP
:FORWARD DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i lan0 -p udp -m multiport --dports 69,161,162,5060,10080 -j ACCEPT
-A FORWARD -i lan0 -p tcp -m multiport --dports 1723,6566,6667 -j ACCEPT
COMMIT
RULES
helped=yes
case " $* " in
*" without "*)
  helped=no
  sed -i '/--helper/d' "$dir/rules.v4"
  ;;
esac
firewall=tidegate
case " $* " in
*" kernel "*)
  firewall=kernel
  ip netns exec "$router" iptables-legacy-restore "$dir/rules.v4"
  ;;
*)
  printf '[rules]\nv4 = "%s"\nv6 = "%s"\n[datapath]\nkind = "userspace"\n' "$dir/rules.v4" "$dir/rules.v6" >"$dir/conf"
  ip netns exec "$router" "$program" up --config "$dir/conf" --socket "$dir/sock" >"$dir/up.log" 2>&1 &
  for _ in $(seq 100); do
    TIDEGATE_SOCKET=$dir/sock "$program" status >/dev/null 2>&1 && break
    sleep 0.1
  done
  ;;
esac
set +e
has() {
  for tool; do
    command -v "$tool" >/dev/null || { echo "SKIPPED: $name: $tool is missing"; return 1; }
  done
}
verdict() { # STATUS
  if [ "$1" = 0 ]; then echo "ok $name"; else
    echo "FAILED: $name"
    tail -n 20 "$dir/$name"/*.log "$dir"/*.log
  fi
}
# within NAMESPACE COMMAND...: with the exchange's own directory as home.
within() {
  ns=$1
  shift
  ip netns exec "$ns" env HOME="$dir/$name" TERM=dumb "$@"
}
# serves LOG NAMESPACE COMMAND...: the same in the background, until the end.
serves() {
  log=$dir/$name/$1.log ns=$2
  shift 2
  ip netns exec "$ns" env HOME="$dir/$name" TERM=dumb "$@" </dev/null >"$log" 2>&1 &
}
# begin NAME: a directory of its own, that servers who give up root can read.
begin() {
  name=$1
  mkdir -p "$dir/$name"
}
# awaits COMMAND...: until it succeeds, for eight seconds.
awaits() {
  until=$(($(date +%s) + 8))
  while [ "$(date +%s)" -lt $until ]; do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  return 1
}
# listens NAMESPACE u|t PORT
listens() {
  awaits sh -c "ip netns exec $1 ss -Hln$2 sport = :$3 | grep -q ."
}
chmod 755 "$dir"
here=$(dirname "$0")
for exchange in "$here"/exchanges/*.sh; do
  . "$exchange"
done
