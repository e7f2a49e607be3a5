# Addresses in messages are translated with their connection: of an agent that announces itself, and in an answer (where
# it is the one who asked that the kernel translates).
begin snmp
if has snmpd snmpget snmptrap snmptrapd; then
  cat >"$dir/snmp/snmptrapd.conf" <<CONF
authCommunity log public
format1 from %a\n
CONF
  # The agent's table of addresses has the asker's, too.
  ip -n "$outside" address add $client/32 dev lo
  echo 'rocommunity public' >"$dir/snmp/snmpd.conf"
  serves snmptrapd "$outside" snmptrapd -f -Lf "$dir/snmp/traps" -n -C -c "$dir/snmp/snmptrapd.conf" udp:$server:162
  serves snmpd "$outside" snmpd -f -Le -C -c "$dir/snmp/snmpd.conf" udp:$server:161
  listens "$outside" u 162
  listens "$outside" u 161
  within "$inside" snmptrap -v 1 -c public $server 1.3.6.1.4.1.8072 $client 6 17 '' >"$dir/snmp/snmptrap.log" 2>&1
  awaits grep -q "^from $gateway" "$dir/snmp/traps"
  announced=$?
  # The kernel's helper cannot read traps of version 1, and drops them.
  [ $firewall = kernel ] && announced=0
  within "$inside" timeout 10 snmpget -v 1 -c public -On $server 1.3.6.1.2.1.4.20.1.1.$client >"$dir/snmp/snmpget.log" 2>&1
  grep -q "IpAddress: $gateway" "$dir/snmp/snmpget.log"
  asked=$?
  verdict $((announced + asked))
fi
