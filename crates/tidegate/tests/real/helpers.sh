#!/bin/sh
# helpers.sh PROGRAM DIRECTORY: real clients and servers through a translating router that drops all but what was
# announced. A line for each exchange: ok NAME, SKIPPED: NAME, or FAILED: NAME. Needs root; touches only network
# namespaces of its own.
set -u
program=$1 dir=$2
id=tgh$$
inside=$id-in router=$id-gw outside=$id-out
pids=
cleanup() {
  for pid in $pids; do kill "$pid" 2>/dev/null; done
  for ns in $inside $router $outside; do ip netns delete "$ns" 2>/dev/null; done
}
trap cleanup EXIT
set -e
for ns in $inside $router $outside; do
  ip netns add "$ns"
  ip -n "$ns" link set lo up
done
wire() { # DEVICE ADDRESS NAMESPACE ADDRESS
  ip -n "$router" link add "$1" type veth peer name eth0 netns "$3"
  ip -n "$router" address add "$2/24" dev "$1"
  ip -n "$router" link set "$1" up
  ip -n "$3" address add "$4/24" dev eth0
  ip -n "$3" link set eth0 up
}
wire lan0 10.66.0.1 "$inside" 10.66.0.20
wire wan0 203.0.113.1 "$outside" 203.0.113.9
ip -n "$inside" route add default via 10.66.0.1
ip netns exec "$router" sysctl -qw net.ipv4.ip_forward=1
cat >"$dir/rules.v4" <<RULES
*raw
-A PREROUTING -p udp --dport 5060 -j CT --helper sip
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
COMMIT
*nat
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i lan0 -p udp -m multiport --dports 69,5060 -j ACCEPT
COMMIT
RULES
printf '[rules]\nv4 = "%s"\nv6 = "%s"\n[datapath]\nkind = "userspace"\n' "$dir/rules.v4" "$dir/rules.v6" >"$dir/conf"
ip netns exec "$router" "$program" up --config "$dir/conf" --socket "$dir/sock" >"$dir/up.log" 2>&1 &
pids="$pids $!"
for _ in $(seq 100); do
  TIDEGATE_SOCKET=$dir/sock "$program" status >/dev/null 2>&1 && break
  sleep 0.1
done
set +e
has() {
  for tool; do
    command -v "$tool" >/dev/null || { echo "SKIPPED: $name: $tool is missing"; return 1; }
  done
}
verdict() { # STATUS
  [ "$1" = 0 ] && echo "ok $name" || { echo "FAILED: $name"; cat "$dir"/*.log; }
}

# A call: what the other end reads names the router's address, and media reach the caller.
name=sip
if has sipp; then
  (cd "$dir" && exec timeout 20 ip netns exec "$outside" sipp -sn uas -i 203.0.113.9 -p 5060 -m 1 -nostdin -trace_msg \
    -message_file "$dir/uas.messages" >uas.log 2>&1) &
  server=$!
  sleep 1
  (cd "$dir" && timeout 20 ip netns exec "$inside" sipp -sn uac 203.0.113.9 -i 10.66.0.20 -p 5060 -m 1 -nostdin -d 200 >uac.log 2>&1)
  called=$?
  wait $server
  answered=$?
  # The call id is text that nobody translates.
  grep -v -i '^call-id' "$dir/uas.messages" | grep -q 10.66.0.20
  leaked=$?
  grep -q 'c=IN IP4 203.0.113.1' "$dir/uas.messages"
  translated=$?
  verdict $((called + answered + translated + (leaked == 0)))
fi

# A file, which comes from another port than was asked.
name=tftp
if has in.tftpd tftp; then
  mkdir -p "$dir/tftp"
  seq 2000 >"$dir/tftp/file"
  chmod -R a+rX "$dir" "$dir/tftp"
  ip netns exec "$outside" in.tftpd --foreground --listen --address 203.0.113.9:69 --secure "$dir/tftp" >"$dir/tftpd.log" 2>&1 &
  pids="$pids $!"
  sleep 0.5
  (cd "$dir" && timeout 20 ip netns exec "$inside" tftp 203.0.113.9 -c get file >tftp.log 2>&1)
  cmp -s "$dir/tftp/file" "$dir/file"
  verdict $?
fi
