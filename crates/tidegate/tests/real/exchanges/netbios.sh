# A name, asked for by broadcast of the router itself: the answer comes from an address that nobody asked.
begin netbios
if has nmbd nmblookup; then
  cat >"$dir/netbios/smb.conf" <<CONF
[global]
netbios name = PRINTER
workgroup = HOME
bind interfaces only = yes
interfaces = eth0
private dir = $dir/netbios
lock directory = $dir/netbios
state directory = $dir/netbios
cache directory = $dir/netbios
pid directory = $dir/netbios
ncalrpc dir = $dir/netbios
log file = $dir/netbios/nmbd.log
CONF
  serves started "$inside" nmbd --foreground --no-process-group --configfile="$dir/netbios/smb.conf"
  listens "$inside" u 137
  cat >"$dir/netbios/ask.conf" <<CONF
[global]
CONF
  # It has the name once nobody else has said that it is his.
  asks() {
    within "$router" timeout 3 nmblookup --configfile="$dir/netbios/ask.conf" -B 10.66.0.255 PRINTER >"$dir/netbios/lookup.log" 2>&1
    grep -q "^$client PRINTER" "$dir/netbios/lookup.log"
  }
  awaits asks
  verdict $?
fi
