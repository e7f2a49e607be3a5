# A backup server asks a client for its data: the answer names the port where they are to be fetched.
begin amanda
if has amservice /usr/lib/amanda/amandad; then
  mkdir -p "$dir/amanda/data"
  seq 5000 >"$dir/amanda/data/file"
  chmod -R a+rX "$dir/amanda"
  printf '127.0.0.1 localhost\n%s gateway\n%s client\n' $gateway $server >"$dir/amanda/hosts"
  echo "gateway root amdump" >"$dir/amanda/allowed"
  chown backup "$dir/amanda/allowed"
  chmod 600 "$dir/amanda/allowed"
  # With names and rights of its own, and records that go away.
  cat >"$dir/amanda/private.sh" <<SH
mount --bind $dir/amanda/hosts /etc/hosts
mount --bind $dir/amanda/allowed /etc/amandahosts
mount -t tmpfs -o mode=777 none /var/log/amanda
exec "\$@"
SH
  cat >"$dir/amanda/request" <<REQUEST
<dle>
  <program>GNUTAR</program>
  <disk>$dir/amanda/data</disk>
  <level>0</level>
  <auth>bsdudp</auth>
  <record>NO</record>
  <index>NO</index>
</dle>
REQUEST
  # amandad wants its socket as inetd would hand it over.
  cat >"$dir/amanda/inetd.py" <<PYTHON
import os, pwd, socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("$server", 10080))
os.dup2(listener.fileno(), 0)
os.dup2(listener.fileno(), 1)
os.setgid(pwd.getpwnam("backup").pw_gid)
os.setuid(pwd.getpwnam("backup").pw_uid)
os.execv("/usr/lib/amanda/amandad", ["/usr/lib/amanda/amandad", "-auth=bsdudp"])
PYTHON
  # Nothing to send, but no end of it either: where the input ends, both sides give the data up, fetched or not.
  mkfifo "$dir/amanda/silence"
  serves amandad "$outside" unshare -m sh "$dir/amanda/private.sh" python3 "$dir/amanda/inetd.py"
  serving=$!
  listens "$outside" u 10080
  within "$inside" timeout 8 unshare -m sh "$dir/amanda/private.sh" amservice --features ffffffff9efefbffffffffff9f \
    -o client_port=10080 -f "$dir/amanda/request" -s client bsdudp sendbackup \
    <>"$dir/amanda/silence" >"$dir/amanda/backup.tar" 2>"$dir/amanda/amservice.log"
  kill -9 $serving 2>/dev/null
  wait $serving 2>/dev/null
  tar -xOf "$dir/amanda/backup.tar" ./file 2>>"$dir/amanda/amservice.log" | cmp -s - "$dir/amanda/data/file"
  verdict $?
fi
