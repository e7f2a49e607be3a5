# A call between a real client and a real server, and what goes through its tunnel. A script stands for what speaks PPP,
# so that the kernel needs none: the client's end sends frames and the server's sends them back.
begin pptp
if has pptp pptpd; then
  cat >"$dir/pptp/pptpd.conf" <<CONF
listen $server
ppp $here/frames.py
pidfile $dir/pptp/pptpd.pid
localip 10.77.0.1
remoteip 10.77.0.2
nologwtmp
CONF
  echo "NOTE: pptp: frames instead of pppd, which needs /dev/ppp: control connection and tunnel alone"
  serves pptpd "$outside" pptpd --fg --conf "$dir/pptp/pptpd.conf"
  listens "$outside" t 1723
  within "$inside" timeout -k 1 20 python3 "$here/frames.py" pptp $server >"$dir/pptp/frames.log" 2>&1
  verdict $?
fi
