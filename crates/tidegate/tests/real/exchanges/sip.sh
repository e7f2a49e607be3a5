# A call: what the other end reads names the router's address, and media reach the caller.
begin sip
if has sipp; then
  (cd "$dir/sip" && exec timeout 20 ip netns exec "$outside" sipp -sn uas -i $server -p 5060 -m 1 -nostdin -trace_msg \
    -message_file uas.messages >uas.log 2>&1) &
  answering=$!
  listens "$outside" u 5060
  (cd "$dir/sip" && timeout 20 ip netns exec "$inside" sipp -sn uac $server -i $client -p 5060 -m 1 -nostdin -d 200 >uac.log 2>&1)
  called=$?
  wait $answering
  answered=$?
  # The call id is text that nobody translates.
  grep -v -i '^call-id' "$dir/sip/uas.messages" | grep -q $client
  leaked=$?
  grep -q "c=IN IP4 $gateway" "$dir/sip/uas.messages"
  translated=$?
  verdict $((called + answered + translated + (leaked == 0)))
fi
